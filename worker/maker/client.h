// How an agent has something made or asked on a CUDA device without opening the driver itself: it starts a maker
// (`shoal maker`) for each request and waits for its end. A driver that hangs or crashes takes the maker along, and
// nobody else. Blocking; any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "kernels/ops/cuda_plugin.h"
#include "worker/device/memory.h"
#include "worker/maker/messages.h"

namespace shoal::maker {

// Errors of all calls, beside those of the plug-in and the device: Cancelled (`cancelled` became true);
// DeadlineExceeded; Internal, when the maker has ended without an answer, with how it ended and the last line that it
// wrote.
class Makers {
 public:
  // `binary` runs `maker`. `cancelled` may be null, and outlives this.
  Makers(std::string binary, const std::atomic<bool>* cancelled) : binary_(std::move(binary)), cancelled_(cancelled) {}

  // What CUDA there is, as the plug-in of `binary` sees it.
  absl::StatusOr<std::unique_ptr<ops::CudaProbe>> Probe() const;

  // Bytes of a device's memory: free beside a context for such numerics and `working` bytes, and all.
  struct Measured {
    int64_t free = 0, total = 0;
  };
  absl::StatusOr<Measured> Measure(int device, int64_t working,
                                   ops::Numerics numerics = ops::Numerics::kInvariant) const;

  // Zeroed memory of the device.
  absl::StatusOr<device::SharedMemory> KvCache(int device, int64_t bytes) const;

  struct Weights {
    device::SharedMemory memory;
    int64_t bytes_read = 0;
    DurationNs load_time = 0;  // without that of starting process and driver
  };
  // `request`: of kWeights. `bytes_read` counts, and may be watched from elsewhere; `cancelled` beside the other one.
  absl::StatusOr<Weights> LoadWeights(const Request& request, std::atomic<int64_t>* bytes_read,
                                      const std::atomic<bool>* cancelled) const;

 private:
  struct Call {
    Request request;
    DurationNs deadline = 0;  // 0: none
    std::function<void(const Answer&)> on_progress = nullptr;
    const std::atomic<bool>* cancelled = nullptr;
  };
  absl::StatusOr<Answer> Ask(const Call& call) const;

  const std::string binary_;
  const std::atomic<bool>* const cancelled_;
};

}  // namespace shoal::maker
