// Tested by: tests/kernels/cuda/library_gemm_test.cc
#include "kernels/cuda/library_gemm.h"

#include <algorithm>
#include <bit>

namespace shoal::cuda {
namespace {

bool Aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % kLibraryAlignment == 0; }

}  // namespace

int64_t TokensAtOnce(const GemmScratch& scratch, int64_t k) {
  constexpr int64_t kTile = 128;
  return std::min(scratch.bytes / k, scratch.tokens) / kTile * kTile;
}

bool LibraryTakes(const GemmProduct& p, const GemmScratch& scratch) {
  const int64_t y_bytes = p.f32_out ? 4 : 2;
  if (p.tokens <= kLibraryTokens || p.n <= 0 || p.k <= 0 || !Aligned(p.x) || !Aligned(p.w) || !Aligned(p.y) ||
      p.y_stride * y_bytes % kLibraryAlignment != 0) {
    return false;
  }
  if (p.type == DType::kBF16) return p.w_scale == nullptr && p.k * 2 % kLibraryAlignment == 0;
  return p.type == DType::kF8E4M3 && p.w_scale != nullptr && Aligned(p.w_scale) && p.n % kLibraryAlignment == 0 &&
         p.k % kLibraryAlignment == 0 && TokensAtOnce(scratch, p.k) > 0;
}

int64_t TokenBucket(int64_t tokens) {
  if (tokens <= 8) return tokens;
  const auto below = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(tokens)));
  const int64_t unit = below / 8;
  return (tokens + unit - 1) / unit * unit;
}

}  // namespace shoal::cuda
