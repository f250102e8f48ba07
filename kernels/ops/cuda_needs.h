// What a CUDA device has to have for the kernels to run on it. A device that lacks it is refused when it is opened:
// a step is no time to find out.
#pragma once

#include <cstddef>

namespace shoal::ops {

inline constexpr int kCudaMinComputeMajor = 8;  // older devices lack bf16 and cp.async
// Shared memory that a block can ask for: as much as the largest kernel does (attention's `wide` with head_dim 256;
// Shared() in kernels/cuda/lang.h compares). Compute capability 8.0 has 163 KiB, 9.0 and 10.0 have 227, but 8.6, 8.9
// and 12.0 have 99 (NVIDIA's tuning guides for Ampere, Ada, Hopper and Blackwell).
inline constexpr size_t kCudaMinSharedBytes = size_t{160} << 10;

}  // namespace shoal::ops
