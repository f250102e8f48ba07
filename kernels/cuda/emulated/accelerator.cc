// Tested by: tests/kernels/cuda/accelerator_test.cc
#include "kernels/cuda/emulated/accelerator.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/emulated/heap.h"
#include "kernels/cuda/emulated/shared_memory.h"
#include "kernels/cuda/illegal_access.h"
#include "kernels/cuda/out_of_memory.h"
#include "kernels/cuda/queue_stream.h"

namespace shoal::cuda {
namespace emulated {
namespace {

class Graph final : public ops::AcceleratorGraph {
 public:
  Graph(WorkQueue* queue, int* alive, WorkQueue::Recording recording)
      : queue_(queue), alive_(alive), recording_(std::move(recording)) {
    ++*alive_;
  }
  ~Graph() override { --*alive_; }
  absl::Status Launch() { return queue_->Launch(recording_); }
  const WorkQueue* queue() const { return queue_; }

 private:
  WorkQueue* const queue_;
  int* const alive_;
  const WorkQueue::Recording recording_;
};

class EmulatedAccelerator final : public ops::Accelerator {
 public:
  explicit EmulatedAccelerator(const EmulatedOptions& options)
      : options_(options), shared_(options.device), queue_(options.pace), stream_(&queue_, options.multiprocessors) {
    stream_.SetGemm(options_.gemm.get());
  }
  ~EmulatedAccelerator() override { SHOAL_CHECK(graphs_ == 0); }

  const ops::OpTable& table() const override { return *options_.table; }
  ops::Stream& stream() override { return stream_; }
  void* native_stream() override { return static_cast<Queue*>(&queue_); }

  absl::StatusOr<void*> Allocate(size_t bytes) override;
  void Free(void* memory) override { device_.Free(memory, queue_.enqueued()); }
  absl::StatusOr<void*> AllocatePinned(size_t bytes) override;
  void FreePinned(void* memory) override { pinned_.Free(memory, queue_.enqueued()); }
  absl::StatusOr<MemoryInfo> Memory() override;

  absl::StatusOr<SharedHandle> CreateShared(size_t bytes) override;
  absl::StatusOr<void*> MapShared(int fd, size_t bytes) override;
  void UnmapShared(void* memory, size_t bytes) override;
  absl::StatusOr<DeviceId> Id() override;
  absl::StatusOr<void*> MapPeer(int fd, size_t bytes, const DeviceId& owner) override;

  absl::Status CopyIn(void* to, const void* from_pinned, size_t bytes) override {
    return EnqueueCopy("copy in", {to, false}, {from_pinned, true}, bytes);
  }
  absl::Status CopyOut(void* to_pinned, const void* from, size_t bytes) override {
    return EnqueueCopy("copy out", {to_pinned, true}, {from, false}, bytes);
  }
  absl::Status Copy(void* to, const void* from, size_t bytes) override {
    return EnqueueCopy("copy", {to, false}, {from, false}, bytes);
  }
  absl::Status Fill(void* to, uint8_t byte, size_t bytes) override;

  absl::StatusOr<uint64_t> Mark() override { return queue_.Mark(); }
  absl::StatusOr<bool> Reached(uint64_t mark) override;
  absl::Status Synchronise() override;

  absl::Status BeginCapture() override;
  absl::StatusOr<std::unique_ptr<ops::AcceleratorGraph>> EndCapture() override;
  absl::Status Launch(ops::AcceleratorGraph& graph) override;
  absl::Status ProvokeFault() override { return EnqueueIllegalAccess(stream_); }

  void FailLaunch(int launches) { queue_.FailLaunch(launches); }
  int graphs() const { return graphs_; }

 private:
  // One side of a copy.
  struct Side {
    const void* memory;
    bool pinned;
  };
  absl::Status Check(const Side& side, size_t bytes);
  absl::Status EnqueueCopy(const char* name, const Side& to, const Side& from, size_t bytes);
  absl::Status Reclaim();
  MemoryInfo Room();

  const EmulatedOptions options_;
  Heap device_, pinned_;
  Mutex shared_mutex_;  // the thread of the queue looks where mappings are
  SharedMemory shared_ SHOAL_GUARDED_BY(shared_mutex_);
  int graphs_ = 0;
  WorkQueue queue_;  // behind all that its work uses
  QueueStream stream_;
};

// Frees what nothing enqueued can use any more.
absl::Status EmulatedAccelerator::Reclaim() {
  const uint64_t finished = queue_.finished();
  for (Heap* heap : {&device_, &pinned_}) {
    const absl::Status whole = heap->Reclaim(finished);
    if (!whole.ok()) queue_.Fail(whole);
  }
  return queue_.Usable();
}

ops::Accelerator::MemoryInfo EmulatedAccelerator::Room() {
  const MutexLock lock(shared_mutex_);
  const size_t used = device_.used() + shared_.used(), total = options_.memory_bytes;
  return {.free = used < total ? total - used : 0, .total = total};
}

absl::StatusOr<void*> EmulatedAccelerator::Allocate(size_t bytes) {
  SHOAL_RETURN_IF_ERROR(queue_.UsableFor("an allocation"));
  SHOAL_RETURN_IF_ERROR(Reclaim());
  const MemoryInfo room = Room();
  if (bytes > room.free) return OutOfMemory(bytes, room);
  return device_.Allocate(bytes);
}

absl::StatusOr<void*> EmulatedAccelerator::AllocatePinned(size_t bytes) {
  SHOAL_RETURN_IF_ERROR(queue_.UsableFor("an allocation"));
  SHOAL_RETURN_IF_ERROR(Reclaim());
  return pinned_.Allocate(bytes);
}

absl::StatusOr<ops::Accelerator::MemoryInfo> EmulatedAccelerator::Memory() {
  SHOAL_RETURN_IF_ERROR(queue_.UsableFor("asking for memory"));
  return Room();
}

absl::StatusOr<ops::Accelerator::SharedHandle> EmulatedAccelerator::CreateShared(size_t bytes) {
  SHOAL_RETURN_IF_ERROR(queue_.UsableFor("an allocation"));
  const MemoryInfo room = Room();
  if (bytes > room.free) return OutOfMemory(bytes, room);
  const size_t granules = (bytes + SharedMemory::kGranularity - 1) / SharedMemory::kGranularity;
  if (granules == 0) return absl::InvalidArgumentError("shared memory of 0 bytes");
  const size_t rounded = granules * SharedMemory::kGranularity;
  if (rounded > room.free) return OutOfMemory(rounded, room);
  const MutexLock lock(shared_mutex_);
  return shared_.Create(rounded);
}

absl::StatusOr<void*> EmulatedAccelerator::MapShared(int fd, size_t bytes) {
  SHOAL_RETURN_IF_ERROR(queue_.UsableFor("a mapping"));
  const MutexLock lock(shared_mutex_);
  return shared_.Map(fd, bytes);
}

void EmulatedAccelerator::UnmapShared(void* memory, size_t bytes) {
  const MutexLock lock(shared_mutex_);
  shared_.Unmap(memory, bytes);
}

absl::StatusOr<ops::Accelerator::DeviceId> EmulatedAccelerator::Id() {
  DeviceId id = {};
  id.back() = static_cast<uint8_t>(options_.device);
  return id;
}

absl::StatusOr<void*> EmulatedAccelerator::MapPeer(int fd, size_t bytes, const DeviceId& owner) {
  SHOAL_RETURN_IF_ERROR(queue_.UsableFor("a mapping"));
  const int device = owner.back();
  if (std::any_of(owner.begin(), owner.end() - 1, [](uint8_t byte) { return byte != 0; })) {
    return absl::FailedPreconditionError("the device that the memory is of is not visible to this process");
  }
  if (device != options_.device && !options_.reaches_peers) {
    return absl::FailedPreconditionError(
        absl::StrCat("device ", options_.device, " does not reach the memory of device ", device));
  }
  const MutexLock lock(shared_mutex_);
  return shared_.MapOf(device, fd, bytes);
}

absl::Status EmulatedAccelerator::Check(const Side& side, size_t bytes) {
  if (side.pinned) {
    if (pinned_.Has(side.memory, bytes)) return absl::OkStatus();
    return absl::InternalError(absl::StrCat(bytes, " bytes on the host's side are not in pinned memory"));
  }
  if (device_.Has(side.memory, bytes)) return absl::OkStatus();
  const MutexLock lock(shared_mutex_);
  if (shared_.Has(side.memory, bytes)) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(bytes, " bytes on the device's side are not in its memory"));
}

// What it copies must be there when it is enqueued, and still when its turn comes.
absl::Status EmulatedAccelerator::EnqueueCopy(const char* name, const Side& to, const Side& from, size_t bytes) {
  SHOAL_RETURN_IF_ERROR(queue_.Usable());
  if (bytes == 0) return absl::OkStatus();
  for (const Side& side : {to, from}) {
    const absl::Status there = Check(side, bytes);
    if (there.ok()) continue;
    queue_.Fail(absl::InternalError(absl::StrCat(name, ": ", there.message())));
    return queue_.Usable();
  }
  return queue_.EnqueueCopy(name, [=, this]() -> absl::Status {
    SHOAL_RETURN_IF_ERROR(Check(to, bytes));
    SHOAL_RETURN_IF_ERROR(Check(from, bytes));
    std::memmove(const_cast<void*>(to.memory), from.memory, bytes);
    return absl::OkStatus();
  });
}

absl::Status EmulatedAccelerator::Fill(void* to, uint8_t byte, size_t bytes) {
  SHOAL_RETURN_IF_ERROR(queue_.Usable());
  if (bytes == 0) return absl::OkStatus();
  const Side side = {to, false};
  if (const absl::Status there = Check(side, bytes); !there.ok()) {
    queue_.Fail(absl::InternalError(absl::StrCat("fill: ", there.message())));
    return queue_.Usable();
  }
  return queue_.EnqueueCopy("fill", [=, this]() -> absl::Status {
    SHOAL_RETURN_IF_ERROR(Check(side, bytes));
    std::memset(to, byte, bytes);
    return absl::OkStatus();
  });
}

absl::StatusOr<bool> EmulatedAccelerator::Reached(uint64_t mark) {
  SHOAL_ASSIGN_OR_RETURN(const bool reached, queue_.Reached(mark));
  SHOAL_RETURN_IF_ERROR(Reclaim());
  return reached;
}

absl::Status EmulatedAccelerator::Synchronise() {
  SHOAL_RETURN_IF_ERROR(queue_.Synchronise());
  return Reclaim();
}

absl::Status EmulatedAccelerator::BeginCapture() {
  SHOAL_RETURN_IF_ERROR(queue_.BeginCapture());
  if (options_.gemm != nullptr) options_.gemm->SetRecording(true);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ops::AcceleratorGraph>> EmulatedAccelerator::EndCapture() {
  SHOAL_ASSIGN_OR_RETURN(WorkQueue::Recording recording, queue_.EndCapture());
  if (options_.gemm != nullptr) options_.gemm->SetRecording(false);
  return std::make_unique<Graph>(&queue_, &graphs_, std::move(recording));
}

absl::Status EmulatedAccelerator::Launch(ops::AcceleratorGraph& graph) {
  auto& own = static_cast<Graph&>(graph);
  SHOAL_CHECK(own.queue() == &queue_);  // captured here
  return own.Launch();
}

}  // namespace

void FailLaunch(ops::Accelerator& emulated, int launches) {
  static_cast<EmulatedAccelerator&>(emulated).FailLaunch(launches);
}

int GraphCount(ops::Accelerator& emulated) { return static_cast<EmulatedAccelerator&>(emulated).graphs(); }

}  // namespace emulated

std::unique_ptr<ops::Accelerator> MakeEmulatedAccelerator(const EmulatedOptions& options) {
  return std::make_unique<emulated::EmulatedAccelerator>(options);
}

}  // namespace shoal::cuda
