// Tested by: tests/kernels/cuda/rope_kv_test.cc
// A thread has one unit of one token. Moves 4 bytes per element of q that rotates, 2 and the cache's per element of k
// and v; the angles (4 * rot_dim bytes a token) come from the cache after the first head.
#include "kernels/cuda/rope_kv.h"
#include "kernels/cuda/row_grid.h"
#include "kernels/cuda/sm80/rope_kv/units.h"
#include "kernels/cuda/vec8.h"

namespace shoal::cuda {
namespace {

using rope::Of;
using rope::Shape;
using rope::Unit;

// (a, b) -> (a', b'). Not fused: the reference's bits.
__device__ void Rotate(float c, float s, float& a, float& b) {
  const float x = a, y = b;
  a = __fadd_rn(__fmul_rn(x, c), -__fmul_rn(y, s));
  b = __fadd_rn(__fmul_rn(y, c), __fmul_rn(x, s));
}

__device__ Shape ShapeOf(const RopeKv& op) {
  return {op.q_heads, op.cache.kv_heads, op.cache.head_dim, op.rot_dim, op.interleaved};
}

// The head's first element in the cache.
template <typename T>
__device__ T* InCache(const RopeKv& op, const Unit& u, int64_t slot, int block_log2) {
  const int64_t block = slot >> block_log2, offset = slot & ((int64_t{1} << block_log2) - 1);
  T* const base = static_cast<T*>(u.of == Of::kK ? op.cache.k : op.cache.v);
  return base + (((block * op.cache.kv_heads + u.head) << block_log2) + offset) * op.cache.head_dim;
}

// first: the unit's vector; second: the one it is joined with when halves are.
template <bool kInterleaved>
__device__ void RotateUnit(const float* cos, const float* sin, Vec8& first, Vec8& second) {
  if (kInterleaved) {
    const float4 c4 = *reinterpret_cast<const float4*>(cos), s4 = *reinterpret_cast<const float4*>(sin);
    Rotate(c4.x, s4.x, first.of[0], first.of[1]);
    Rotate(c4.y, s4.y, first.of[2], first.of[3]);
    Rotate(c4.z, s4.z, first.of[4], first.of[5]);
    Rotate(c4.w, s4.w, first.of[6], first.of[7]);
  } else {
    const Vec8 c = Load8(cos), s = Load8(sin);
    SHOAL_UNROLL for (int i = 0; i < 8; ++i) Rotate(c.of[i], s.of[i], first.of[i], second.of[i]);
  }
}

template <typename T, bool kInterleaved>
__global__ void __launch_bounds__(kRowThreads) RopeKvUnit(const RopeKv op, const int block_log2) {
  const Shape shape = ShapeOf(op);
  const int index = RowVector();
  if (index >= rope::UnitCount(shape)) return;
  const Unit u = rope::UnitOf(shape, index);
  const int64_t t = blockIdx.x;
  const int64_t slot = u.of == Of::kQ ? 0 : op.slots[t];
  if (slot < 0) return;
  const bf16* base = u.of == Of::kQ ? op.q : u.of == Of::kK ? op.k : op.v;
  const int64_t stride = u.of == Of::kQ ? op.q_stride : op.kv_stride;
  const int64_t at = t * stride + static_cast<int64_t>(u.head) * shape.head_dim + u.first;
  const int half = shape.rot_dim / 2;
  const bool joined = u.rotate && !kInterleaved;
  Vec8 first = Load8(base + at), second = {};
  if (joined) second = Load8(base + at + half);
  if (u.rotate) {
    const int64_t angles = op.angles == nullptr ? t : op.angles[t], angle = angles * half + rope::AngleOf(shape, u);
    RotateUnit<kInterleaved>(op.cos + angle, op.sin + angle, first, second);
  }
  if (u.of == Of::kQ) {
    Store8(op.q + at, first);
    if (joined) Store8(op.q + at + half, second);
    return;
  }
  T* const to = InCache<T>(op, u, slot, block_log2) + u.first;
  Store8(to, first);
  if (joined) Store8(to + half, second);
}

template <typename T>
absl::Status EnqueueWith(DeviceStream stream, const RopeKv& op) {
  const Shape shape = {op.q_heads, op.cache.kv_heads, op.cache.head_dim, op.rot_dim, op.interleaved};
  const int units = rope::UnitCount(shape);
  if (units == 0) return absl::OkStatus();
  int block_log2 = 0;
  while (1 << block_log2 < op.cache.block_size) ++block_log2;
  const auto kernel = op.interleaved ? RopeKvUnit<T, true> : RopeKvUnit<T, false>;
  return Launch(stream, "rope_kv", RowGrid(op.tokens, units), kernel, op, block_log2);
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const RopeKv& op) {
  if (op.tokens == 0) return absl::OkStatus();
  if (op.cache.head_dim % 8 != 0 || op.q_stride % 8 != 0 || op.kv_stride % 8 != 0) {
    return absl::InvalidArgumentError("rope_kv: head_dim or a stride is no multiple of 8");
  }
  if (op.rot_dim < 0 || op.rot_dim > op.cache.head_dim || op.rot_dim % (op.interleaved ? 8 : 16) != 0) {
    return absl::InvalidArgumentError("rope_kv: rot_dim is no multiple of 16 (interleaved: 8) up to head_dim");
  }
  if (op.cache.block_size <= 0 || (op.cache.block_size & (op.cache.block_size - 1)) != 0) {
    return absl::InvalidArgumentError("rope_kv: block_size is no power of two");
  }
  switch (op.cache.dtype) {
    case DType::kF32:
      return EnqueueWith<float>(stream, op);
    case DType::kF16:
      return EnqueueWith<f16>(stream, op);
    case DType::kBF16:
      return EnqueueWith<bf16>(stream, op);
    default:
      return absl::InvalidArgumentError("rope_kv: a cache of this type cannot be written");
  }
}

}  // namespace shoal::cuda
