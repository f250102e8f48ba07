// Eight bf16 or f16 as one 16-byte access, eight f32 as two.
#pragma once

#include <cstring>

#include "kernels/cuda/warp.h"

namespace shoal::cuda {

struct Vec8 {
  float of[8];
};
__device__ inline Vec8 Load8(const bf16* at) {
  const uint4 raw = *reinterpret_cast<const uint4*>(at);
  const uint32_t pairs[4] = {raw.x, raw.y, raw.z, raw.w};
  Vec8 v;
  SHOAL_UNROLL for (int i = 0; i < 4; ++i) {
    v.of[2 * i] = __uint_as_float(pairs[i] << 16);
    v.of[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
  }
  return v;
}
__device__ inline Vec8 Load8(const f16* at) {
  const uint4 raw = *reinterpret_cast<const uint4*>(at);
  f16 of[8];
  memcpy(of, &raw, sizeof(raw));
  Vec8 v;
  SHOAL_UNROLL for (int i = 0; i < 8; ++i) v.of[i] = ToFloat(of[i]);
  return v;
}
__device__ inline Vec8 Load8(const float* at) {
  const float4 low = *reinterpret_cast<const float4*>(at), high = *reinterpret_cast<const float4*>(at + 4);
  return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}
// Rounded to nearest even.
__device__ inline void Store8(bf16* at, const Vec8& v) {
  *reinterpret_cast<uint4*>(at) = {PackBf16(v.of[0], v.of[1]), PackBf16(v.of[2], v.of[3]), PackBf16(v.of[4], v.of[5]),
                                   PackBf16(v.of[6], v.of[7])};
}
__device__ inline void Store8(f16* at, const Vec8& v) {
  *reinterpret_cast<uint4*>(at) = {PackF16(v.of[0], v.of[1]), PackF16(v.of[2], v.of[3]), PackF16(v.of[4], v.of[5]),
                                   PackF16(v.of[6], v.of[7])};
}
__device__ inline void Store8(float* at, const Vec8& v) {
  *reinterpret_cast<float4*>(at) = {v.of[0], v.of[1], v.of[2], v.of[3]};
  *reinterpret_cast<float4*>(at + 4) = {v.of[4], v.of[5], v.of[6], v.of[7]};
}

}  // namespace shoal::cuda
