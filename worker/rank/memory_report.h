// Whether a rank's device has as much memory in use as was planned when the KV cache was sized: what comes on top in a
// rank (recorded graphs, buffers of its channels) cannot be measured before. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "kernels/ops/accelerator.h"

namespace shoal::rank {

class MemoryReport {
 public:
  // `planned`: bytes in use on the whole device while the rank runs; 0: nobody knows, nothing is said. `say`: takes
  // lines for a person. `accelerator` outlives this.
  MemoryReport(ops::Accelerator* accelerator, int64_t planned, std::function<void(const std::string&)> say);

  // After each step. Asks the device after the first one, and ever more seldom up to kLastLook: graphs are recorded
  // early. Says both figures after the first, and once when more than kTolerance of the plan came on top.
  void AfterStep();

  static constexpr uint64_t kLastLook = 1 << 16;
  static constexpr double kTolerance = 0.05;

 private:
  ops::Accelerator* const accelerator_;
  const int64_t planned_;
  const std::function<void(const std::string&)> say_;
  uint64_t steps_ = 0;
  bool warned_ = false;
};

}  // namespace shoal::rank
