// Tested by tests/kernels/row_ops_test.cc
#include "kernels/ops/rope_kv.h"

#include <cstring>

#include "kernels/cpu/cpu.h"

namespace shoal::ops::cpu {
namespace {

// dst = the rotated head; dst may be src.
void Rotate(const float* src, const float* cos, const float* sin, int head_dim, int rot_dim, bool interleaved,
            float* dst) {
  const int half = rot_dim / 2;
  if (interleaved) {
    for (int i = 0; i < half; ++i) {
      const float x = src[2 * i], y = src[2 * i + 1];
      dst[2 * i] = x * cos[i] - y * sin[i];
      dst[2 * i + 1] = y * cos[i] + x * sin[i];
    }
  } else {
    for (int i = 0; i < half; ++i) {
      const float x = src[i], y = src[i + half];
      dst[i] = x * cos[i] - y * sin[i];
      dst[i + half] = y * cos[i] + x * sin[i];
    }
  }
  if (dst != src) std::memcpy(dst + rot_dim, src + rot_dim, static_cast<size_t>(head_dim - rot_dim) * sizeof(float));
}

void Token(const KernelSet& set, const RopeKvArgs& a, int64_t t) {
  const KvLayer& c = a.cache;
  const int64_t angles = (a.angles == nullptr ? t : a.angles[t]) * (a.rot_dim / 2);
  const float* cos = a.cos + angles;
  const float* sin = a.sin + angles;
  for (int64_t h = 0; h < a.q_heads; ++h) {
    float* q = a.q + t * a.q_stride + h * c.head_dim;
    Rotate(q, cos, sin, c.head_dim, a.rot_dim, a.interleaved, q);
  }
  if (a.slots[t] < 0) return;
  const int64_t block = a.slots[t] / c.block_size, offset = a.slots[t] % c.block_size;
  const auto dtype = static_cast<uint8_t>(c.dtype);
  float rotated[kMaxHeadDim];
  for (int64_t h = 0; h < c.kv_heads; ++h) {
    const int64_t at = ((block * c.kv_heads + h) * c.block_size + offset) * c.head_dim;
    const size_t bytes = RowBytes(c.dtype, at);
    Rotate(a.k + t * a.kv_stride + h * c.head_dim, cos, sin, c.head_dim, a.rot_dim, a.interleaved, rotated);
    set.store(dtype, rotated, c.head_dim, static_cast<char*>(c.k) + bytes);
    set.store(dtype, a.v + t * a.kv_stride + h * c.head_dim, c.head_dim, static_cast<char*>(c.v) + bytes);
  }
}

}  // namespace

absl::Status RopeKv(const KernelSet& set, Stream& stream, const RopeKvArgs& a) {
  if (a.cache.head_dim > kMaxHeadDim) return absl::UnimplementedError("rope_kv: head_dim above 256");
  const int64_t row = static_cast<int64_t>(a.q_heads + 2 * a.cache.kv_heads) * a.cache.head_dim;
  const int tasks = TaskCount(stream, a.tokens * row * 2, a.tokens);
  ParallelFor(stream, tasks, [&](int task) {
    const int64_t end = static_cast<int64_t>(a.tokens) * (task + 1) / tasks;
    for (int64_t t = static_cast<int64_t>(a.tokens) * task / tasks; t < end; ++t) Token(set, a, t);
  });
  return absl::OkStatus();
}

}  // namespace shoal::ops::cpu
