// A device with memory of its own, as a plug-in gives it (cuda_plugin.h): that memory, one queue of work, and the ops
// on it. What is enqueued runs in order, later; the host looks when it is done. One thread, but for Free*(), which any
// may call.
//
// Errors: ResourceExhausted: no memory, with the numbers. Internal, with the device's words: something enqueued before
// has failed (an illegal access, ...) or the device is gone; then every later call says so too, and only another
// process can use the device again.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/ops/op_table.h"

namespace shoal::ops {

// Work that was recorded once and can be launched again and again; what it reads from memory may differ each time.
// Destroyed before its accelerator. What of it is under way then still runs to its end.
class AcceleratorGraph {
 public:
  virtual ~AcceleratorGraph() = default;
};

class Accelerator {
 public:
  virtual ~Accelerator() = default;  // waits for what is under way

  // Ops are enqueued; Stream::threads() is the number of multiprocessors.
  virtual const OpTable& table() const = 0;
  virtual Stream& stream() = 0;
  // The queue as the device's own libraries take it (a cudaStream_t).
  virtual void* native_stream() = 0;

  // Memory of this process; 256-byte aligned, undefined at first. Allocation may wait for the device.
  virtual absl::StatusOr<void*> Allocate(size_t bytes) = 0;
  virtual void Free(void* memory) = 0;  // nothing enqueued uses it any more
  // Host memory that copies can read and write while the host goes on, and that ops read where it lies.
  virtual absl::StatusOr<void*> AllocatePinned(size_t bytes) = 0;
  virtual void FreePinned(void* memory) = 0;
  struct MemoryInfo {
    size_t free, total;  // bytes, of the whole device
  };
  virtual absl::StatusOr<MemoryInfo> Memory() = 0;

  // Memory that outlives this process: it lives as long as a descriptor or a mapping of it, in any process.
  struct SharedHandle {
    int fd = -1;       // close-on-exec; the caller's
    size_t bytes = 0;  // what was asked for, rounded up to the device's granularity
  };
  virtual absl::StatusOr<SharedHandle> CreateShared(size_t bytes) = 0;
  // The whole of it, at one address, readable and writable, until UnmapShared or the end of this process. `fd` stays
  // the caller's. InvalidArgument: the descriptor is not of such memory, or `bytes` is not what CreateShared told.
  virtual absl::StatusOr<void*> MapShared(int fd, size_t bytes) = 0;
  virtual void UnmapShared(void* memory, size_t bytes) = 0;

  // Which device it is, in any process of the host.
  using DeviceId = std::array<uint8_t, 16>;
  virtual absl::StatusOr<DeviceId> Id() = 0;
  // MapShared of what the device `owner` has created, another one or this: ops of this device read and write it where
  // it lies, copies as well. FailedPrecondition, with why: this device does not reach the memory of that one.
  virtual absl::StatusOr<void*> MapPeer(int fd, size_t bytes, const DeviceId& owner) = 0;

  // Enqueued copies. On the host's side is pinned memory, left alone until a mark behind the copy is reached.
  virtual absl::Status CopyIn(void* to, const void* from_pinned, size_t bytes) = 0;
  virtual absl::Status CopyOut(void* to_pinned, const void* from, size_t bytes) = 0;
  virtual absl::Status Copy(void* to, const void* from, size_t bytes) = 0;
  virtual absl::Status Fill(void* to, uint8_t byte, size_t bytes) = 0;

  // A mark behind everything enqueued so far. Marks are reached in order; they count from 1.
  virtual absl::StatusOr<uint64_t> Mark() = 0;
  // Whether it is reached. Does not wait.
  virtual absl::StatusOr<bool> Reached(uint64_t mark) = 0;
  // Until everything enqueued is done.
  virtual absl::Status Synchronise() = 0;

  // What is enqueued between the two is recorded and does not run. Nothing may be allocated, mapped, marked, asked for
  // or waited for meanwhile: FailedPrecondition, and the recording goes on. A failed op leaves EndCapture still to be
  // called. FailedPrecondition of EndCapture: there is no recording, or something spoilt it; the device is well.
  virtual absl::Status BeginCapture() = 0;
  virtual absl::StatusOr<std::unique_ptr<AcceleratorGraph>> EndCapture() = 0;
  virtual absl::Status Launch(AcceleratorGraph& graph) = 0;

  // For tests: enqueues a kernel that makes an illegal access.
  virtual absl::Status ProvokeFault() = 0;
};

}  // namespace shoal::ops
