// Tested by tests/kernels/row_ops_test.cc
#include "kernels/ops/rope_kv.h"

#include <vector>

#include "kernels/ref/ref.h"

namespace shoal::ops::ref {
namespace {

// One head, in place.
void Rotate(const RopeKvArgs& a, int64_t t, float* head) {
  const int half = a.rot_dim / 2;
  const int64_t row = a.angles == nullptr ? t : a.angles[t];
  for (int i = 0; i < half; ++i) {
    const int first = a.interleaved ? 2 * i : i, second = a.interleaved ? 2 * i + 1 : i + half;
    const float c = a.cos[row * half + i], s = a.sin[row * half + i];
    const float x = head[first], y = head[second];
    head[first] = x * c - y * s;
    head[second] = y * c + x * s;
  }
}

void Store(DType t, const float* src, int n, void* cache, int64_t at) {
  for (int d = 0; d < n; ++d) {
    if (t == DType::kF32) static_cast<float*>(cache)[at + d] = src[d];
    if (t == DType::kF16) static_cast<uint16_t*>(cache)[at + d] = F32ToF16(src[d]);
    if (t == DType::kBF16) static_cast<uint16_t*>(cache)[at + d] = F32ToBF16(src[d]);
  }
}

}  // namespace

absl::Status RopeKv(Stream& stream, const RopeKvArgs& a) {
  const KvLayer& c = a.cache;
  std::vector<float> rotated(static_cast<size_t>(c.head_dim));
  for (int64_t t = 0; t < a.tokens; ++t) {
    for (int h = 0; h < a.q_heads; ++h) Rotate(a, t, a.q + t * a.q_stride + static_cast<int64_t>(h) * c.head_dim);
    if (a.slots[t] < 0) continue;
    const int64_t block = a.slots[t] / c.block_size, offset = a.slots[t] % c.block_size;
    for (int h = 0; h < c.kv_heads; ++h) {
      const float* k = a.k + t * a.kv_stride + static_cast<int64_t>(h) * c.head_dim;
      const float* v = a.v + t * a.kv_stride + static_cast<int64_t>(h) * c.head_dim;
      const int64_t at = ((block * c.kv_heads + h) * c.block_size + offset) * c.head_dim;
      rotated.assign(k, k + c.head_dim);
      Rotate(a, t, rotated.data());
      Store(c.dtype, rotated.data(), c.head_dim, c.k, at);
      Store(c.dtype, v, c.head_dim, c.v, at);
    }
  }
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops::ref
