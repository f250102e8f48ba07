// Tested by: tests/kernels/cuda/library_gemm_test.cc
#include "kernels/cuda/library_gemm.h"

#include <bit>

namespace shoal::cuda {
namespace {

bool Aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % kLibraryAlignment == 0; }

}  // namespace

bool LibraryTakes(const GemmProduct& p) {
  const int64_t y_bytes = p.f32_out ? 4 : 2;
  return p.type == DType::kBF16 && !p.row_scaled && p.tokens > kLibraryTokens && p.n > 0 && p.k > 0 && Aligned(p.x) &&
         Aligned(p.w) && Aligned(p.y) && p.k * 2 % kLibraryAlignment == 0 &&
         p.y_stride * y_bytes % kLibraryAlignment == 0;
}

int64_t TokenBucket(int64_t tokens) {
  if (tokens <= 8) return tokens;
  const auto below = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(tokens)));
  const int64_t unit = below / 8;
  return (tokens + unit - 1) / unit * unit;
}

}  // namespace shoal::cuda
