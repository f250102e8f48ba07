// A kernel of which a block has one row of activations, eight columns of a thread at a time: the block's shape, and
// what its threads do together.
#pragma once

#include "kernels/cuda/vec8.h"

namespace shoal::cuda {

inline constexpr int kRowBlockWarps = 16;  // at most
inline constexpr int kRowBlockThreads = 32 * kRowBlockWarps;

// Half the threads that would take the row in one go each: each has work for some loads in flight.
inline LaunchShape RowBlock(int rows, int dim, size_t shared_bytes) {
  const int warps = min(max(dim / 16 / 32, 1), kRowBlockWarps);
  return {dim3{static_cast<unsigned>(rows)}, dim3{static_cast<unsigned>(32 * warps)}, shared_bytes};
}

// This thread's columns of the row: begin, begin + step, ..., and the seven behind each.
__device__ inline int RowBegin() { return 8 * static_cast<int>(threadIdx.x); }
__device__ inline int RowStep() { return 8 * static_cast<int>(blockDim.x); }

// f(of the warps so far, of the next) over what the threads of each warp have made of theirs; the same in every thread.
// `of_warp` is shared memory that is not used again.
template <typename F>
__device__ float RowFold(float of_this_warp, float (&of_warp)[kRowBlockWarps], F f) {
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = of_this_warp;
  __syncthreads();
  float all = 0;
  for (int i = 0; i < static_cast<int>(blockDim.x) / 32; ++i) all = f(all, of_warp[i]);
  return all;
}
__device__ inline float RowSum(float x, float (&of_warp)[kRowBlockWarps]) {
  return RowFold(WarpSum(x), of_warp, [](float a, float b) { return a + b; });
}
// Of what is not negative.
__device__ inline float RowMax(float x, float (&of_warp)[kRowBlockWarps]) {
  return RowFold(WarpMax(x), of_warp, [](float a, float b) { return fmaxf(a, b); });
}

// Eight columns of x; where there is something to add, x is written: its sum with that, rounded, which is returned.
__device__ inline Vec8 Join8(bf16* x, const bf16* add, int64_t at) {
  Vec8 v = Load8(x + at);
  if (add == nullptr) return v;
  const Vec8 a = Load8(add + at);
  SHOAL_UNROLL for (int j = 0; j < 8; ++j) v.of[j] = ToFloat(FromFloat<bf16>(v.of[j] + a.of[j]));
  Store8(x + at, v);
  return v;
}

}  // namespace shoal::cuda
