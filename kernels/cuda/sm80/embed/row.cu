// Tested by: tests/kernels/cuda/embed_test.cc
// A thread has eight columns of a row. Moves the row's bytes in the table and 2 per element. Rows of quantised blocks
// lie on 2-byte borders (4 for Q4_1), so their codes come as 16-bit words.
#include "kernels/cuda/embed.h"
#include "kernels/cuda/row_grid.h"
#include "kernels/cuda/vec8.h"

namespace shoal::cuda {
namespace {

// Columns [at, at + 8) of row `row`.
template <typename T>
struct Plain {
  static constexpr int kBlock = 1;
  static __device__ Vec8 Read(const void* table, int64_t row, int64_t dim, int at) {
    return Load8(static_cast<const T*>(table) + row * dim + at);
  }
};

__device__ float F16OfWord(uint16_t word) {
  f16 x;
  memcpy(&x, &word, sizeof(x));
  return ToFloat(x);
}

// The block of 32 columns that has column `at`.
template <int kWords>
__device__ const uint16_t* BlockOf(const void* table, int64_t row, int64_t dim, int at) {
  return static_cast<const uint16_t*>(table) + (row * (dim / 32) + at / 32) * kWords;
}

struct Q8 {
  static constexpr int kBlock = 32;
  static __device__ Vec8 Read(const void* table, int64_t row, int64_t dim, int at) {
    const uint16_t* block = BlockOf<17>(table, row, dim, at);
    const float d = F16OfWord(block[0]);
    Vec8 v;
    SHOAL_UNROLL for (int i = 0; i < 4; ++i) {
      const uint16_t codes = block[1 + at % 32 / 2 + i];
      v.of[2 * i] = d * static_cast<float>(static_cast<int8_t>(codes & 0xff));
      v.of[2 * i + 1] = d * static_cast<float>(static_cast<int8_t>(codes >> 8));
    }
    return v;
  }
};

// Byte i of a block has column i in its low half, column i + 16 in its high half. d * code is exact in f32, so that
// adding the minimum rounds once, fused or not.
template <bool kMinimum>
struct Q4 {
  static constexpr int kBlock = 32;
  static constexpr int kHeader = kMinimum ? 2 : 1;
  static __device__ Vec8 Read(const void* table, int64_t row, int64_t dim, int at) {
    const uint16_t* block = BlockOf<kHeader + 8>(table, row, dim, at);
    const float d = F16OfWord(block[0]), m = kMinimum ? F16OfWord(block[1]) : 0;
    const int shift = at % 32 / 16 * 4, zero = kMinimum ? 0 : 8;
    Vec8 v;
    SHOAL_UNROLL for (int i = 0; i < 4; ++i) {
      const int codes = block[kHeader + at % 16 / 2 + i] >> shift;
      v.of[2 * i] = d * static_cast<float>((codes & 15) - zero);
      v.of[2 * i + 1] = d * static_cast<float>((codes >> 8 & 15) - zero);
      if (!kMinimum) continue;
      v.of[2 * i] += m;
      v.of[2 * i + 1] += m;
    }
    return v;
  }
};

__device__ float Fp8ToFloat(uint32_t code) {
  const uint32_t sign = (code & 0x80) << 24, magnitude = code & 0x7f;
  if (magnitude == 0x7f) return __uint_as_float(sign | 0x7fc00000u);
  return __uint_as_float(sign | magnitude << 20) * 0x1p120f;  // the biases are 127 and 7; subnormal or not, exact
}

template <DType kType>
struct Bytes {
  static constexpr int kBlock = 1;
  static __device__ Vec8 Read(const void* table, int64_t row, int64_t dim, int at) {
    const uint2 raw = *reinterpret_cast<const uint2*>(static_cast<const uint8_t*>(table) + row * dim + at);
    Vec8 v;
    SHOAL_UNROLL for (int i = 0; i < 8; ++i) {
      const uint32_t code = (i < 4 ? raw.x : raw.y) >> i % 4 * 8 & 0xff;
      v.of[i] = kType == DType::kI8 ? static_cast<float>(static_cast<int8_t>(code)) : Fp8ToFloat(code);
    }
    return v;
  }
};

template <typename Reader>
__global__ void __launch_bounds__(kRowThreads) EmbedRow(const Embed op) {
  const int at = 8 * RowVector(), t = static_cast<int>(blockIdx.x);
  if (at >= op.table.k) return;
  const int64_t row = static_cast<int64_t>(op.ids[t]) - op.row_begin;
  Vec8 v = {};
  if (row >= 0 && row < op.table.n) {
    v = Reader::Read(op.table.data, row, op.table.k, at);
    const float row_scale = op.table.row_scale == nullptr ? 1.0f : op.table.row_scale[row];
    SHOAL_UNROLL for (int i = 0; i < 8; ++i) v.of[i] = v.of[i] * row_scale * op.scale;
  }
  Store8(op.x + t * op.table.k + at, v);
}

template <typename Reader>
absl::Status EnqueueWith(DeviceStream stream, const Embed& op) {
  if (op.table.k % Reader::kBlock != 0) return absl::InvalidArgumentError("embed: the width is not in whole blocks");
  return Launch(stream, "embed", RowGrid(op.tokens, op.table.k / 8), EmbedRow<Reader>, op);
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const Embed& op) {
  if (op.tokens == 0) return absl::OkStatus();
  if (op.table.k <= 0 || op.table.k % 8 != 0) return absl::InvalidArgumentError("embed: the width is no multiple of 8");
  switch (op.table.dtype) {
    case DType::kF32:
      return EnqueueWith<Plain<float>>(stream, op);
    case DType::kF16:
      return EnqueueWith<Plain<f16>>(stream, op);
    case DType::kBF16:
      return EnqueueWith<Plain<bf16>>(stream, op);
    case DType::kQ8_0:
      return EnqueueWith<Q8>(stream, op);
    case DType::kQ4_0:
      return EnqueueWith<Q4<false>>(stream, op);
    case DType::kQ4_1:
      return EnqueueWith<Q4<true>>(stream, op);
    case DType::kF8E4M3:
      return EnqueueWith<Bytes<DType::kF8E4M3>>(stream, op);
    case DType::kI8:
      return EnqueueWith<Bytes<DType::kI8>>(stream, op);
  }
  return absl::InvalidArgumentError("embed: a type that no table has");
}

}  // namespace shoal::cuda
