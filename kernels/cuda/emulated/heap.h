// Memory of an emulated device from the host's heap. It begins as 0xff bytes and becomes them again when it is freed;
// until what was enqueued before is done it goes to nobody else, so that its use after the end shows. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "common/base/mutex.h"

namespace shoal::cuda::emulated {

class Heap {
 public:
  Heap() = default;
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;
  ~Heap();

  // 256-byte aligned; never null.
  void* Allocate(size_t bytes) SHOAL_EXCLUDES(mutex_);
  // `enqueued`: how much work was enqueued by now.
  void Free(void* memory, uint64_t enqueued) SHOAL_EXCLUDES(mutex_);
  // Gives back what was freed when no more than `finished` was enqueued. Internal: something wrote there since.
  absl::Status Reclaim(uint64_t finished) SHOAL_EXCLUDES(mutex_);

  // Whether [memory, memory + bytes) lies in one piece that is not freed.
  bool Has(const void* memory, size_t bytes) const SHOAL_EXCLUDES(mutex_);
  // Of all pieces that are not freed.
  size_t used() const SHOAL_EXCLUDES(mutex_);

 private:
  struct Freed {
    std::byte* memory;
    size_t bytes;
    uint64_t enqueued;
  };

  mutable Mutex mutex_;
  std::map<const std::byte*, size_t> pieces_ SHOAL_GUARDED_BY(mutex_);
  std::vector<Freed> freed_ SHOAL_GUARDED_BY(mutex_);
  size_t used_ SHOAL_GUARDED_BY(mutex_) = 0;
};

}  // namespace shoal::cuda::emulated
