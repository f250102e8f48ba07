// What a rank computes on, as its decoder and its engine see it: which ops there are, where working memory lies, and
// how the host's words about a step get there. On the CPU that memory is the host's own, and nothing is ever under way.
// One thread; memory may be freed from any.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/ops/op_table.h"

namespace shoal::device {

// Working memory of a device, freed with the object. 256-byte aligned, undefined at first.
class Memory {
 public:
  Memory() = default;
  Memory(void* data, size_t size, void (*free)(void*)) : data_(data, free), size_(size) {}
  std::byte* data() const { return static_cast<std::byte*>(data_.get()); }
  size_t size() const { return size_; }

 private:
  static void Nothing(void*) {}
  std::unique_ptr<void, void (*)(void*)> data_{nullptr, Nothing};
  size_t size_ = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual const ops::OpTable& table() const = 0;
  virtual ops::Stream& stream() = 0;

  // ResourceExhausted: there is not so much.
  virtual absl::StatusOr<Memory> Allocate(size_t bytes) = 0;

  // Whether the host reads and writes that memory like its own, and an op is done when it returns.
  virtual bool is_host() const = 0;
  // to[0, bytes) = from, after what was enqueued before and before what comes next. `from` may change once this
  // returns.
  virtual absl::Status Upload(void* to, const void* from, size_t bytes) = 0;
  // The other way; waits for all that was enqueued.
  virtual absl::Status Download(void* to, const void* from, size_t bytes) = 0;
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
    return reinterpret_cast<const T*>(memory_.data());
  }

 private:
  absl::Status PutBytes(const void* from, size_t bytes);

  Device* const device_;
  Memory memory_;
};

// The CPU: `threads` threads, ops of `table`.
std::unique_ptr<Device> MakeHostDevice(const ops::OpTable* table, int threads);

}  // namespace shoal::device
