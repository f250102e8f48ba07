// A stream on the host: where launches go (lang.h), and what plays a library of the device's may enqueue too. Without
// one (a null DeviceStream) a launch runs at once.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"

namespace shoal::cuda::emulated {

class Queue {
 public:
  // Not OK: the device has failed, as from an illegal access.
  using Work = std::function<absl::Status()>;

  virtual ~Queue() = default;
  // A launch, behind everything enqueued so far. While a graph is captured it is recorded instead and runs whenever
  // the graph does. Not OK: the device has failed before.
  virtual absl::Status Enqueue(const std::string& name, Work work) = 0;
};

}  // namespace shoal::cuda::emulated
