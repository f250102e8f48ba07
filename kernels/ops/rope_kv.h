// Rotary position embedding on q and k (Su et al., arXiv 2104.09864), and the write of k and v into the cache.
// Pair (a, b) of a head = (2i, 2i + 1) when interleaved (GGUF's llama order), else (i, i + rot_dim / 2) (Hugging Face):
//   a' = a * cos[t, i] - b * sin[t, i];   b' = b * cos[t, i] + a * sin[t, i],   i in [0, rot_dim / 2)
// Dimensions past rot_dim pass through. k and v are rounded to the cache's type; q stays f32, in place.
#pragma once

#include "absl/status/status.h"
#include "kernels/ops/acts.h"
#include "kernels/ops/kv_cache.h"
#include "kernels/ops/stream.h"

namespace shoal::ops {

struct RopeKvArgs {
  Acts q;                       // [tokens, q_heads, head_dim], token stride q_stride; rotated in place
  ConstActs k;                  // [tokens, kv_heads, head_dim], token stride kv_stride
  ConstActs v;                  // same shape and stride as k
  int64_t q_stride, kv_stride;  // in floats
  const float* cos;             // [rows, rot_dim / 2]
  const float* sin;             // [rows, rot_dim / 2]
  const int32_t* angles;        // [tokens]: the row of cos and sin that a token takes; null: row t
  const int64_t* slots;         // [tokens]: where the token's k and v go; -1: nowhere
  KvLayer cache;
  int tokens;
  int q_heads;
  int rot_dim;
  bool interleaved;
};
using RopeKvFn = absl::Status (*)(Stream&, const RopeKvArgs&);

}  // namespace shoal::ops
