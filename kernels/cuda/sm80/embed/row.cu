// Tested by: tests/kernels/cuda/embed_test.cc
// A thread has eight columns of a row. Moves the row's bytes in the table (of types that lie in tiles in pieces of 4 or
// 8) and 2 per element.
#include "kernels/cuda/embed.h"
#include "kernels/cuda/linear_layout.h"
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

__device__ float Fp8ToFloat(uint32_t code) {
  const uint32_t sign = (code & 0x80) << 24, magnitude = code & 0x7f;
  if (magnitude == 0x7f) return __uint_as_float(sign | 0x7fc00000u);
  return __uint_as_float(sign | magnitude << 20) * 0x1p120f;  // the biases are 127 and 7; subnormal or not, exact
}

template <DType kType>
struct Bytes {
  static constexpr int kBlock = 1;
  static __device__ Vec8 Read(const void* table, int64_t row, int64_t dim, int at) {
    const uint2 codes = *reinterpret_cast<const uint2*>(static_cast<const unsigned char*>(table) + row * dim + at);
    Vec8 v;
    SHOAL_UNROLL for (int i = 0; i < 8; ++i) {
      const uint32_t code = (i < 4 ? codes.x : codes.y) >> i % 4 * 8 & 0xff;
      v.of[i] = kType == DType::kF8E4M3 ? Fp8ToFloat(code) : static_cast<float>(static_cast<int8_t>(code));
    }
    return v;
  }
};

// Eight columns of a block lie together (linear_layout.h). d * code is exact in f32, so that adding the minimum rounds
// once, fused or not.
template <DType kType>
struct Packed {
  static constexpr int kBlock = kQuantBlock;
  static constexpr bool kMinimum = kType == DType::kQ4_1, kZero = kType == DType::kI4;
  static constexpr linear::BlockLayout kLayout = linear::LayoutOf(kType);

  static __device__ float Number(const unsigned char* at) {
    f16 x;
    memcpy(&x, at, sizeof(x));
    return ToFloat(x);
  }
  static __device__ float Code(uint2 codes, int i, int zero) {
    if (kLayout.code_bytes == 8) {
      const uint32_t code = (i < 4 ? codes.x : codes.y) >> i % 4 * 8 & 0xff;
      return static_cast<float>(static_cast<int8_t>(code));
    }
    const int code = static_cast<int>(codes.x >> (i / 2 * 4 + i % 2 * 16) & 15);
    return static_cast<float>(code - zero);
  }
  static __device__ Vec8 Read(const void* table, int64_t row, int64_t dim, int at) {
    const int block = at / kQuantBlock, blocks = static_cast<int>(dim / kQuantBlock);
    const int of_unit = (block | 1) < blocks ? 2 : 1, in_tile = static_cast<int>(row % linear::kRowTile);
    const int g = in_tile % 8, high = in_tile / 8;
    const unsigned char* unit = static_cast<const unsigned char*>(table) +
                                row / linear::kRowTile * linear::TileBytes(kLayout, dim) +
                                linear::UnitOffset(kLayout, block / 2);
    const unsigned char* codes_at =
        unit + linear::CodeOffset(kLayout, of_unit, 4 * g + at % kQuantBlock / 8, block % 2, high);
    uint2 codes = {0, 0};
    if (kLayout.code_bytes == 8) {
      codes = *reinterpret_cast<const uint2*>(codes_at);
    } else {
      codes.x = *reinterpret_cast<const uint32_t*>(codes_at);
    }
    const float d = Number(unit + linear::NumberOffset(kLayout, of_unit, g, block % 2, high, 0));
    const float m = kMinimum ? Number(unit + linear::NumberOffset(kLayout, of_unit, g, block % 2, high, 1)) : 0;
    uint16_t zero = kMinimum ? 0 : 8;
    if (kZero) memcpy(&zero, unit + linear::NumberOffset(kLayout, of_unit, g, block % 2, high, 1), sizeof(zero));
    Vec8 v;
    SHOAL_UNROLL for (int i = 0; i < 8; ++i) {
      v.of[i] = d * Code(codes, i, zero);
      if (kMinimum) v.of[i] += m;
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
    if (op.add != nullptr) {
      SHOAL_UNROLL for (int i = 0; i < 8; ++i) v.of[i] += op.add[at + i];
    }
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
      return EnqueueWith<Packed<DType::kQ8_0>>(stream, op);
    case DType::kQ4_0:
      return EnqueueWith<Packed<DType::kQ4_0>>(stream, op);
    case DType::kQ4_1:
      return EnqueueWith<Packed<DType::kQ4_1>>(stream, op);
    case DType::kF8E4M3:
      return EnqueueWith<Bytes<DType::kF8E4M3>>(stream, op);
    case DType::kI4:
      return EnqueueWith<Packed<DType::kI4>>(stream, op);
    case DType::kI8:
      return EnqueueWith<Bytes<DType::kI8>>(stream, op);
  }
  return absl::InvalidArgumentError("embed: a type that no table has");
}

}  // namespace shoal::cuda
