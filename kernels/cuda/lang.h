// The language that kernels of kernels/cuda are written in: CUDA C++, or, where no CUDA compiler reads it, the same on
// the host (emulated/), so that each kernel is tested without a GPU. A kernel uses CUDA's own words (threadIdx,
// __syncthreads, ...) and, for what has no words there or has too many, the functions of this header and warp.h.
//
// What a kernel keeps to, so that both compile it: shared memory is dynamic, one struct, got by Shared<T>(); warps act
// as a whole (the mask is all 32 lanes); no static shared arrays, no printf, no double atomics.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "common/base/host_device.h"
#include "kernels/cuda/device_stream.h"
#include "kernels/ops/cuda_needs.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/launch.h"
#define SHOAL_UNROLL _Pragma("unroll")
#define SHOAL_KEEP_LOOP _Pragma("unroll 1")

namespace shoal::cuda {

using bf16 = __nv_bfloat16;
using f16 = __half;

__device__ inline float ToFloat(bf16 x) { return __bfloat162float(x); }
__device__ inline float ToFloat(f16 x) { return __half2float(x); }
__device__ inline float ToFloat(float x) { return x; }
// Rounds to nearest, ties to even.
template <typename T>
__device__ T FromFloat(float x);
template <>
__device__ inline bf16 FromFloat<bf16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ inline f16 FromFloat<f16>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline float FromFloat<float>(float x) {
  return x;
}

// The block's dynamic shared memory as a T.
template <typename T>
__device__ T& Shared() {
  static_assert(sizeof(T) <= ops::kCudaMinSharedBytes, "a device that is opened may have less");
  extern __shared__ __align__(128) unsigned char shoal_shared[];
  return *reinterpret_cast<T*>(shoal_shared);
}

}  // namespace shoal::cuda
#else
#include "kernels/cuda/emulated/lang.h"
#endif
