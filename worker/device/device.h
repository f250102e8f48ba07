// What a rank computes on, as its decoder and its engine see it: which ops there are, where working memory lies, and
// how the host's words about a step get there and its results back. On the CPU that memory is the host's own and
// nothing is ever under way; on an accelerator all is enqueued, in order, and the host looks later. One thread; memory
// may be freed from any. Errors of an accelerator: kernels/ops/accelerator.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops/accelerator.h"
#include "kernels/ops/op_table.h"

namespace shoal::device {

// Working memory, freed with the object, before its device. 256-byte aligned, undefined at first.
class Memory {
 public:
  Memory() = default;
  Memory(void* data, size_t size, std::function<void(void*)> free) : data_(data, std::move(free)), size_(size) {}
  std::byte* data() const { return static_cast<std::byte*>(data_.get()); }
  size_t size() const { return size_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_.get());
  }

 private:
  std::unique_ptr<void, std::function<void(void*)>> data_{nullptr, [](void*) {}};
  size_t size_ = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual const ops::OpTable& table() const = 0;
  virtual ops::Stream& stream() = 0;

  // ResourceExhausted: there is not so much. Host memory is such that copies from a device can go there meanwhile.
  virtual absl::StatusOr<Memory> Allocate(size_t bytes) = 0;
  virtual absl::StatusOr<Memory> AllocateHost(size_t bytes) = 0;

  // Whether the host reads and writes that memory like its own, and an op is done when it returns.
  virtual bool is_host() const = 0;
  // to[0, bytes) = from, after what was enqueued before and before what comes next. `from` may change once this
  // returns.
  virtual absl::Status Upload(void* to, const void* from, size_t bytes) = 0;
  // The other way; waits for all that was enqueued.
  virtual absl::Status Download(void* to, const void* from, size_t bytes) = 0;
  // The other way without waiting: done when a later mark is reached. `to` is of AllocateHost.
  virtual absl::Status Fetch(void* to, const void* from, size_t bytes) = 0;

  // A mark behind everything enqueued so far, and whether it is reached: everything before it is done, or the first
  // error of it. Marks are reached in order.
  virtual absl::StatusOr<uint64_t> Mark() = 0;
  virtual absl::StatusOr<bool> Reached(uint64_t mark) = 0;
  // A place inside long work that counts as progress (ops::Stream::Advance) when a later Reached() finds it passed.
  virtual absl::Status Milestone() = 0;

  // What `enqueue` enqueues, to be launched again and again with what its memory then holds; it does not run now, and
  // may neither allocate, upload nor wait. FailedPrecondition on the CPU.
  virtual absl::StatusOr<std::unique_ptr<ops::AcceleratorGraph>> Record(
      const std::function<absl::Status()>& enqueue) = 0;
  virtual absl::Status Launch(ops::AcceleratorGraph& graph) = 0;

  // For tests: an illegal access, enqueued. FailedPrecondition on the CPU.
  virtual absl::Status ProvokeFault() = 0;
};

// Device memory for values that come from the host, of any number: it grows.
class UploadBuffer {
 public:
  explicit UploadBuffer(Device* device) : device_(device) {}
  // Where they are on the device, until the next call. ResourceExhausted: there is no memory for so many.
  template <typename T>
  absl::StatusOr<const T*> Put(std::span<const T> values) {
    absl::Status put = PutBytes(values.data(), values.size_bytes());
    if (!put.ok()) return put;
    return memory_.as<const T>();
  }

 private:
  absl::Status PutBytes(const void* from, size_t bytes);

  Device* const device_;
  Memory memory_;
  std::vector<Memory> outgrown_;  // what is enqueued may still read them; together no larger than memory_
};

// The CPU: `threads` threads, ops of `table`.
std::unique_ptr<Device> MakeHostDevice(const ops::OpTable* table, int threads);

// What a plug-in has opened. `upload_bytes`: of what may be on its way there at once; more waits.
absl::StatusOr<std::unique_ptr<Device>> MakeAcceleratorDevice(std::unique_ptr<ops::Accelerator> accelerator,
                                                              size_t upload_bytes = size_t{16} << 20);

}  // namespace shoal::device
