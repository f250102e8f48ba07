// kernels/ops/rope_kv.h on a device: rotates q and k, and writes k and v into the cache.
// Pair (a, b) of a head = (2i, 2i + 1) when interleaved, else (i, i + rot_dim / 2); c, s = cos, sin[angles[t], i]:
//   a' = a * c - b * s;   b' = b * c + a * s,   i in [0, rot_dim / 2), in f32 without fused operations
// Dimensions past rot_dim pass through. q is rounded to bf16, k and v to the cache's type, once. Defined to the bit.
#pragma once

#include "kernels/cuda/lang.h"
#include "kernels/ops/kv_cache.h"

namespace shoal::cuda {

// Strides in elements, multiples of 8; rows are 16-byte aligned. q, k and v may lie in one buffer.
struct RopeKv {
  bf16* q;        // [tokens, q_heads, head_dim], token stride q_stride; rotated in place
  const bf16* k;  // [tokens, kv_heads, head_dim], token stride kv_stride
  const bf16* v;  // same shape and stride as k
  int64_t q_stride, kv_stride;
  const float* cos;       // [rows, rot_dim / 2], 16-byte aligned
  const float* sin;       // the same
  const int32_t* angles;  // [tokens], on the device: rows of cos and sin, also for padding; null: row t
  const int64_t* slots;   // [tokens], on the device: where the token's k and v go; -1: nowhere
  ops::KvLayer cache;     // head_dim a multiple of 8
  int tokens;
  int q_heads;
  int rot_dim;  // a multiple of 8 when interleaved, else of 16; 0: no rotation
  bool interleaved;
};
absl::Status Enqueue(DeviceStream stream, const RopeKv& op);

}  // namespace shoal::cuda
