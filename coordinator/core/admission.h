// Who is let in, and when those who are not shall come back. Pure.
#pragma once

#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "common/plan/plan_check.h"
#include "coordinator/core/request.h"

namespace shoal::core {

// InvalidArgument says what about a request can never be served.
absl::Status CheckRequest(const GenerateRequest& request, const plan::MirrorLimits& limits);

// How fast requests have been finishing lately.
class ServiceRate {
 public:
  void Finished(TimeNs now);

  // Seconds until `waiting` requests will have been served at that rate, in [1, 60]; 5 while nothing is known.
  int32_t RetryAfter(int32_t waiting, TimeNs now) const;

 private:
  std::array<TimeNs, 64> finished_{};  // the latest ones, a ring
  uint64_t count_ = 0;
};

}  // namespace shoal::core
