// Tested by: tests/kernels/cuda/accelerator_test.cc
#include "kernels/cuda/emulated/heap.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "common/base/check.h"

namespace shoal::cuda::emulated {
namespace {

constexpr size_t kAlignment = 256;
constexpr int kPoison = 0xff;  // NaN in every float type, and no index

size_t Rounded(size_t bytes) { return std::max(bytes + kAlignment - 1, kAlignment) / kAlignment * kAlignment; }

bool IsPoison(const std::byte* memory, size_t bytes) {
  return std::all_of(memory, memory + bytes, [](std::byte b) { return b == std::byte{kPoison}; });
}

}  // namespace

Heap::~Heap() {
  for (const auto& [memory, bytes] : pieces_) std::free(const_cast<std::byte*>(memory));
  for (const Freed& f : freed_) std::free(f.memory);
}

void* Heap::Allocate(size_t bytes) {
  bytes = Rounded(bytes);
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kAlignment, bytes));
  SHOAL_CHECK(memory != nullptr);
  std::memset(memory, kPoison, bytes);
  const MutexLock lock(mutex_);
  pieces_.emplace(memory, bytes);
  used_ += bytes;
  return memory;
}

void Heap::Free(void* memory, uint64_t enqueued) {
  if (memory == nullptr) return;
  const MutexLock lock(mutex_);
  const auto piece = pieces_.find(static_cast<std::byte*>(memory));
  SHOAL_CHECK(piece != pieces_.end());  // freed twice, or not of this device
  std::memset(memory, kPoison, piece->second);
  freed_.push_back({static_cast<std::byte*>(memory), piece->second, enqueued});
  used_ -= piece->second;
  pieces_.erase(piece);
}

absl::Status Heap::Reclaim(uint64_t finished) {
  const MutexLock lock(mutex_);
  bool whole = true;
  std::erase_if(freed_, [&](const Freed& f) {
    if (f.enqueued > finished) return false;
    whole &= IsPoison(f.memory, f.bytes);
    std::free(f.memory);
    return true;
  });
  return whole ? absl::OkStatus() : absl::InternalError("memory was written to after it was freed");
}

bool Heap::Has(const void* memory, size_t bytes) const {
  const auto* begin = static_cast<const std::byte*>(memory);
  const MutexLock lock(mutex_);
  auto piece = pieces_.upper_bound(begin);
  if (piece == pieces_.begin()) return false;
  --piece;
  const auto offset = static_cast<size_t>(begin - piece->first);
  return offset <= piece->second && bytes <= piece->second - offset;
}

size_t Heap::used() const {
  const MutexLock lock(mutex_);
  return used_;
}

}  // namespace shoal::cuda::emulated
