// The CUDA devices behind an agent's slots. The agent never opens the driver: all it knows and has of them comes from
// makers (worker/maker). Any thread.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "common/plan/control.h"
#include "kernels/ops/cuda_plugin.h"
#include "worker/device/memory.h"
#include "worker/maker/client.h"

namespace shoal::agent {

class CudaDevices {
 public:
  // One slot for each of the first `slots` usable devices (0: for all), as CUDA_VISIBLE_DEVICES orders them; a part
  // `utilization` of each one's memory may be in use. `makers` outlives this. FailedPrecondition, for a person: there
  // is no plug-in, no driver, no usable device, or fewer than `slots`.
  static absl::StatusOr<std::unique_ptr<CudaDevices>> Find(const maker::Makers* makers, int slots, double utilization);
  // Of a probe that found kReady.
  CudaDevices(const maker::Makers* makers, const ops::CudaProbe& probe, int slots, double utilization);

  // Kind "cuda", as many threads as multiprocessors. Their memory is what they may have at most: a join measures.
  const std::vector<plan::DeviceSlot>& slots() const { return slots_; }
  // Index of a slot's device in the probe.
  int Index(int32_t slot) const { return devices_[static_cast<size_t>(slot)].index; }
  // What has a say in the bits that these slots compute: devices and driver.
  std::string Numerics(const std::vector<int32_t>& slots) const;

  // What weights and KV cache may have on a slot, beside `working` bytes of the rank: what is free beside the rank's
  // context, less the part that shall stay unused and kReserve. `held`: what this agent holds there, which counts as
  // free. Measured once for each number of working bytes and kind of numerics, so that joins after a failure start no
  // process. ResourceExhausted: the working memory alone does not fit.
  absl::StatusOr<int64_t> Offer(int32_t slot, int64_t working, int64_t held,
                                ops::Numerics numerics = ops::Numerics::kInvariant) SHOAL_EXCLUDES(mutex_);
  // What is in use of a slot's device beside weights and KV cache once the rank is there, as Offer() measured it; what
  // this agent held is not counted. 0: it has not.
  int64_t InUse(int32_t slot, int64_t working, ops::Numerics numerics) SHOAL_EXCLUDES(mutex_);
  // For what comes on top in a rank and cannot be measured before: recorded graphs, buffers of its channels. No more
  // than a 32th of the device.
  static constexpr int64_t kReserve = int64_t{512} << 20;

  const maker::Makers& makers() const { return *makers_; }

 private:
  struct Device {
    int index;
    std::string name;  // without spaces, with its compute capability
  };
  struct Free {
    int64_t bytes, total;  // bytes: as if this agent held nothing
  };

  const maker::Makers* const makers_;
  const double utilization_;
  std::vector<plan::DeviceSlot> slots_;
  std::vector<Device> devices_;  // of the slots
  std::string driver_;
  Mutex mutex_;
  // By slot, working bytes and numerics.
  std::map<std::tuple<int32_t, int64_t, ops::Numerics>, Free> measured_ SHOAL_GUARDED_BY(mutex_);
};

}  // namespace shoal::agent
