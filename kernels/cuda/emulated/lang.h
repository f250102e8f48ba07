// CUDA's words on the host; see kernels/cuda/lang.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "common/base/dtype.h"
#include "kernels/cuda/emulated/block.h"
#include "kernels/cuda/emulated/queue.h"
#include "kernels/ops/cuda_needs.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#define __grid_constant__
#define SHOAL_UNROLL
#define SHOAL_KEEP_LOOP

namespace shoal::cuda {

using dim3 = emulated::Dim3;
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }

#define threadIdx (::shoal::cuda::emulated::here.thread_index)
#define blockIdx (::shoal::cuda::emulated::here.block_index)
#define blockDim (::shoal::cuda::emulated::here.block)
#define gridDim (::shoal::cuda::emulated::here.grid)

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

inline float ToFloat(bf16 x) { return BF16ToF32(x.bits); }
inline float ToFloat(f16 x) { return F16ToF32(x.bits); }
inline float ToFloat(float x) { return x; }
template <typename T>
T FromFloat(float x);
template <>
inline bf16 FromFloat<bf16>(float x) {
  return {F32ToBF16(x)};
}
template <>
inline f16 FromFloat<f16>(float x) {
  return {F32ToF16(x)};
}
template <>
inline float FromFloat<float>(float x) {
  return x;
}

template <typename T>
T& Shared() {
  static_assert(sizeof(T) <= ops::kCudaMinSharedBytes, "a device that is opened may have less");
  if (sizeof(T) > emulated::here.shared_bytes) std::abort();  // more than the launch asked for
  return *reinterpret_cast<T*>(emulated::here.shared);
}

inline void __syncthreads() { emulated::BlockBarrier(); }
inline void __threadfence() {}
inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
inline long long __double_as_longlong(double x) { return __builtin_bit_cast(long long, x); }
inline double __longlong_as_double(long long x) { return __builtin_bit_cast(double, x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
inline float exp2f(float x) { return std::exp2(x); }
// Byte i of the result is byte (selector >> 4 i) & 7 of low (0 to 3) and high (4 to 7).
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t bytes = uint64_t{high} << 32 | low;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) r |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return r;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
template <typename T>
T atomicAdd(T* at, T by) {
  return std::exchange(*at, static_cast<T>(*at + by));
}
inline unsigned atomicOr(unsigned* at, unsigned x) { return std::exchange(*at, *at | x); }
inline unsigned atomicCAS(unsigned* at, unsigned expected, unsigned x) {
  return std::exchange(*at, *at == expected ? x : *at);
}
inline unsigned atomicMax(unsigned* at, unsigned x) { return std::exchange(*at, std::max(*at, x)); }
using std::max;
using std::min;

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
};
// The kernel has its arguments by value, as a device does: what they were when it was enqueued.
template <typename... P, typename... A>
absl::Status Launch(DeviceStream stream, const char* name, const LaunchShape& s, void (*kernel)(P...), A... a) {
  const unsigned threads = s.block.x * s.block.y * s.block.z;
  // The limits of compute capability 8.0 (CUDA C++ Programming Guide, technical specifications).
  if (threads < 1 || threads > 1024 || s.shared_bytes > 163 << 10 || s.grid.x < 1 || s.grid.y > 65535 ||
      s.grid.z > 65535) {
    return absl::InternalError(std::string(name) + ": a launch that no device takes");
  }
  auto run = [s, kernel, arguments = std::tuple<P...>(static_cast<P>(a)...)] {
    emulated::RunGrid(s.grid, s.block, s.shared_bytes, [&] { std::apply(kernel, arguments); });
    return absl::OkStatus();
  };
  return stream == nullptr ? run() : stream->Enqueue(name, std::move(run));
}

}  // namespace shoal::cuda
