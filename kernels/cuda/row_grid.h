// The grid of a kernel whose thread has one 16-byte vector of one row: block (x, y) is of row x.
#pragma once

#include "kernels/cuda/lang.h"

namespace shoal::cuda {

inline constexpr int kRowThreads = 256;

// `rows` and `vectors` at least 1; rows too short for a whole block get blocks of as many warps as they need.
inline LaunchShape RowGrid(int rows, int64_t vectors) {
  const int64_t threads = vectors < kRowThreads ? (vectors + 31) / 32 * 32 : kRowThreads;
  return {dim3{static_cast<unsigned>(rows), static_cast<unsigned>((vectors + threads - 1) / threads)},
          dim3{static_cast<unsigned>(threads)}, 0};
}
// This thread's vector; may lie beyond the row's end.
__device__ inline int RowVector() { return static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x); }

}  // namespace shoal::cuda
