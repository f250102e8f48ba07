// The ranks of a group over emulated NCCL (emulated_nccl.h), connected, and a view of their channels for data in host
// memory.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/emulated/accelerator.h"
#include "tests/comm/emulated_nccl.h"
#include "worker/comm/nccl.h"

namespace shoal::comm {

// An emulated device with the CUDA backend's ops.
std::unique_ptr<ops::Accelerator> MakeTestAccelerator(cuda::emulated::Pace pace = cuda::emulated::Pace::kEager);

// What a rank works with. The libraries outlive the group.
struct NcclMaker {
  std::function<std::unique_ptr<ops::Accelerator>(int rank)> accelerator;
  std::function<NcclApi*(int rank)> library;
  AllReducePolicy all_reduce = AllReducePolicy::kAuto;
};

class NcclGroup {
 public:
  // One flag for each rank.
  NcclGroup(const GroupShape& shape, std::span<const AbortFlag* const> abort, const NcclMaker& maker) {
    Connect(shape, abort, maker);
  }
  // Emulated.
  NcclGroup(const GroupShape& shape, std::span<const AbortFlag* const> abort,
            cuda::emulated::Pace pace = cuda::emulated::Pace::kEager,
            AllReducePolicy all_reduce = AllReducePolicy::kAuto);

  int size() const { return static_cast<int>(ranks_.size()); }
  RankComm& rank(int r) { return ranks_[static_cast<size_t>(r)]; }
  ops::Accelerator& accelerator(int r) { return *accelerators_[static_cast<size_t>(r)]; }
  NcclWorld& world() { return world_; }

 private:
  void Connect(const GroupShape& shape, std::span<const AbortFlag* const> abort, const NcclMaker& maker);

  NcclWorld world_;
  std::vector<std::unique_ptr<NcclApi>> libraries_;
  std::vector<std::unique_ptr<ops::Accelerator>> accelerators_;
  std::vector<RankComm> ranks_;
};

// Until what is enqueued is done, or the rank's watch says that it will not be.
absl::Status AwaitDevice(const RankComm& comm, ops::Accelerator& accelerator);

// Channels that copy host memory to the device and back around each operation, and wait for it. Both outlive them.
// AllReduceSum is of f32 values that bf16 has.
RankComm OnHost(RankComm& device, ops::Accelerator& accelerator);

}  // namespace shoal::comm
