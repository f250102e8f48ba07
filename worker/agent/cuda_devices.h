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
  struct Wanted {
    int slots = 0;             // 0: one for each that can be used
    double utilization = 0.9;  // of each device's memory, the part that may be in use
    // The device of each slot, as CUDA_VISIBLE_DEVICES orders them; empty: the first that can be used. One that is
    // named several times is shared: its slots have equal parts of its memory.
    std::vector<int> ids = {};
  };
  // `makers` outlives this. FailedPrecondition, for a person: there is no plug-in, no driver, no usable device, not the
  // devices that are named, or not as many as slots.
  static absl::StatusOr<std::unique_ptr<CudaDevices>> Find(const maker::Makers* makers, const Wanted& wanted);
  // Of a probe that found kReady; ids that cannot be used are left out.
  CudaDevices(const maker::Makers* makers, const ops::CudaProbe& probe, const Wanted& wanted);

  // Kind "cuda", as many threads as multiprocessors. Their memory is what they may have at most: a join measures.
  const std::vector<plan::DeviceSlot>& slots() const { return slots_; }
  // Index of a slot's device in the probe.
  int Index(int32_t slot) const { return devices_[static_cast<size_t>(slot)].index; }
  // How many slots are on a slot's device.
  int Sharers(int32_t slot) const;
  // What a rank (of this name, unlike all others) has to be started with. NCCL takes ranks on one device for ranks of
  // several hosts then, and connects them by sockets; it refuses them otherwise.
  std::vector<std::string> Environment(int32_t slot, const std::string& rank_name) const;
  // What has a say in the bits that these slots compute: devices and driver.
  std::string Numerics(const std::vector<int32_t>& slots) const;

  // What weights and KV cache may have on a slot, beside `working` bytes of the rank: what is free beside the rank's
  // context, less the part that shall stay unused and kReserve; of a device that slots share, one part less what each
  // needs for itself. `held`: what this agent holds there, which counts as free. Measured once for each number of
  // working bytes and kind of numerics, so that joins after a failure start no process. ResourceExhausted: the working
  // memory alone does not fit.
  absl::StatusOr<int64_t> Offer(int32_t slot, int64_t working, int64_t held,
                                ops::Numerics numerics = ops::Numerics::kInvariant) SHOAL_EXCLUDES(mutex_);
  // What is in use of a slot's device beside weights and KV cache once the rank is there, as Offer() measured it; what
  // this agent held is not counted. 0: it has not.
  int64_t InUse(int32_t slot, int64_t working, ops::Numerics numerics) SHOAL_EXCLUDES(mutex_);
  // For what comes on top in a rank and cannot be measured before: recorded graphs, buffers of its channels. No more
  // than a 32th of the device.
  static constexpr int64_t kReserve = int64_t{512} << 20;
  // What the context of another rank on the device takes at most ("some hundred MiB", kernels/ops/cuda_plugin.h).
  static constexpr int64_t kContext = int64_t{1} << 30;

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
