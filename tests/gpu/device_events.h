// Times on a CUDA device's own clock: events between the works of its queue, by the driver's interface, which the
// plug-in's contract (kernels/ops/accelerator.h) does not have. One thread, that which opened the device.
#pragma once

#include <memory>

#include "absl/status/statusor.h"

namespace shoal::gpu {

class DeviceEvents {
 public:
  // `native_stream`: of a CUDA device, whose context is this thread's. Unavailable: there is no driver.
  static absl::StatusOr<std::unique_ptr<DeviceEvents>> Open(void* native_stream);
  // The host's clock when they are recorded, for emulated devices: they have none, and what comes of it means nothing.
  static std::unique_ptr<DeviceEvents> OfHost();
  virtual ~DeviceEvents() = default;

  // An event behind what is enqueued so far; they count from 0. It happens when the device comes to it: between two
  // works that are both enqueued, at once behind the first; where the second comes late, when it is enqueued.
  virtual absl::Status Record() = 0;
  virtual int count() const = 0;
  // Seconds from one to the other, with a resolution of half a microsecond. Waits for `to`.
  virtual absl::StatusOr<double> Between(int from, int to) = 0;
};

}  // namespace shoal::gpu
