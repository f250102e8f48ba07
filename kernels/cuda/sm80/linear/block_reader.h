// Weights of GGUF's block types and of int4 in the layout of linear_layout.h, for tile.h.
//
// A reader of one tile of 16 rows: Open() finds the lane's place; Load() fetches the lane's share of a step into `Raw`
// (registers, several steps ahead of its use); Expand() makes of its first block the fragments that Mma takes as A: two
// products of 16 columns, in kTerms terms to be added; NextBlock() puts the second block in place of the first.
// kScaled: A holds integer codes, and the sum over each block is to be multiplied by Scale() (and kHasMinimum: the sum
// of x added, times Minimum()). kLaneColumns: how many neighbouring columns of a step a lane has of
// each row (tile.h). Another type of weight is another reader.
//
// Codes are exact in bf16, which has whole numbers up to 256; a scaled weight would not be: d * q rounded to bf16 has
// an error of 2^-9 of each product. So the tensor cores sum code * x, and the scale meets the f32 sum of its block:
// for each row and token two products and one fma.
#pragma once

#include "kernels/cuda/linear_schedule.h"
#include "kernels/cuda/warp.h"

namespace shoal::cuda::linear {

// The half `high` of a pair of f16.
__device__ inline float HalfOf(uint32_t pair, int high) {
  const float2 f = UnpackF16(pair);
  return high == 0 ? f.x : f.y;
}

// Pair i (0 to 3) of eight int8, exactly.
__device__ inline uint32_t Int8Pair(const uint32_t (&words)[2], int i) {
  // q = its lower 7 bits - 128 if the top bit is set = (128 + lower) - (128 or, with the bit in the exponent, 256);
  // bf16 0x4300 + q is 128 + q for q < 128.
  constexpr uint32_t kEach = 0x00010001u, kTo128 = 0x4300 * kEach;
  const uint32_t bytes = __byte_perm(words[i / 2], 0, i % 2 == 0 ? 0x4140 : 0x4342);
  const uint32_t lower = (bytes & 0x7f * kEach) | kTo128, top = (bytes & 0x80 * kEach) | kTo128;
  return FmaBf16(top, 0xbf80 * kEach, lower);  // lower - top
}

// A lane's place in a tile of 16 rows.
struct TileRows {
  const uint8_t* base;  // the same for the whole block: only the offset costs registers
  uint32_t tile;        // in units of 32 bytes
  int lane;

  // A tile past the end is read as the last: its results are nobody's.
  __device__ void OpenTile(const void* w, int first_row, int n, int64_t tile_bytes, int lane_of_warp) {
    base = static_cast<const uint8_t*>(w);
    tile = static_cast<uint32_t>(min(first_row, n - 1) / kRowTile) * static_cast<uint32_t>(tile_bytes / 32);
    lane = lane_of_warp;
  }
  __device__ const uint8_t* Unit(int step, int unit_bytes) const {
    return base + uint64_t{32} * tile + step * unit_bytes;
  }
};

template <DType kOf>
struct BlockRows : TileRows {
  static constexpr DType kType = kOf;
  static constexpr int kTerms = 1;
  static constexpr bool kScaled = true;
  static constexpr bool kHasMinimum = kType == DType::kQ4_1;
  static constexpr int kLaneColumns = 8;
  static constexpr BlockLayout kLayout = LayoutOf(kType);
  static constexpr int kWords = kLayout.code_bytes / 4;      // of a row and block
  static constexpr int kNumbers = kLayout.number_bytes / 4;  // pairs of a block: scales; minima or zero points

  struct Raw {
    uint32_t codes[2][2][kWords];  // [block][row g, row g + 8]
    uint32_t numbers[2][kNumbers];
  };

  __device__ void Open(const void* w, int n, int k, int first_row, int lane_of_warp) {
    OpenTile(w, first_row, n, TileBytes(kLayout, k), lane_of_warp);
  }

  __device__ void Load(Raw& raw, int step, bool whole) const {
    static_assert(kLayout.BlockBytes() % 32 == 0);
    const uint8_t* unit = Unit(step, static_cast<int>(UnitOffset(kLayout, 1)));
    whole ? LoadUnit<2>(raw, unit) : LoadUnit<1>(raw, unit);
  }

  // What is added to a pair of 128 + code: - 128, and less the zero point.
  static __device__ uint32_t Offset(const uint32_t (&numbers)[kNumbers], int high) {
    constexpr uint32_t kEach = 0x00010001u, kMinus128 = 0xc300 * kEach;  // bf16 0xc300 + z is - (128 + z)
    if constexpr (kType == DType::kI4) return kMinus128 + __byte_perm(numbers[1], 0, high == 0 ? 0x1010 : 0x3232);
    return kType == DType::kQ4_0 ? kMinus128 + 8 * kEach : kMinus128;
  }

  // Pair i (0 to 3) of the 8 codes.
  static __device__ uint32_t Codes(const uint32_t (&words)[kWords], int i, uint32_t offset) {
    constexpr uint32_t kEach = 0x00010001u, kTo128 = 0x4300 * kEach;  // bf16 0x4300 + q is 128 + q for q < 128
    if constexpr (kType == DType::kQ8_0) {
      return Int8Pair(words, i);
    } else {
      const uint32_t q = (words[0] >> 4 * i & 0xf * kEach) | kTo128;
      return FmaBf16(q, 0x3f80 * kEach, offset);
    }
  }

  static __device__ void Expand(const Raw& raw, uint32_t (&a)[kTerms][2][4]) {
    SHOAL_UNROLL for (int high = 0; high < 2; ++high) {
      const uint32_t offset = Offset(raw.numbers[0], high);
      SHOAL_UNROLL for (int i = 0; i < 4; ++i) { a[0][i / 2][i % 2 * 2 + high] = Codes(raw.codes[0][high], i, offset); }
    }
  }
  static __device__ float Scale(const Raw& raw, int high) { return HalfOf(raw.numbers[0][0], high); }
  static __device__ float Minimum(const Raw& raw, int high) { return HalfOf(raw.numbers[0][kNumbers - 1], high); }
  static __device__ void NextBlock(Raw& raw) {
    SHOAL_UNROLL for (int high = 0; high < 2; ++high) {
      SHOAL_UNROLL for (int i = 0; i < kWords; ++i) raw.codes[0][high][i] = raw.codes[1][high][i];
    }
    SHOAL_UNROLL for (int i = 0; i < kNumbers; ++i) raw.numbers[0][i] = raw.numbers[1][i];
  }

 private:
  template <int kBlocks>
  __device__ void LoadUnit(Raw& raw, const uint8_t* unit) const {
    if constexpr (kBlocks == 1) raw = Raw{};  // the absent block is zero
    const auto codes = [&](int block) { return unit + CodeOffset(kLayout, kBlocks, lane, block, 0); };
    if constexpr (kType == DType::kQ8_0) {
      SHOAL_UNROLL for (int b = 0; b < kBlocks; ++b) Put4(raw.codes[b], codes(b));
    } else if constexpr (kBlocks == 2) {
      const uint4 v = LoadOnce(reinterpret_cast<const uint4*>(codes(0)));
      raw.codes[0][0][0] = v.x, raw.codes[0][1][0] = v.y, raw.codes[1][0][0] = v.z, raw.codes[1][1][0] = v.w;
    } else {
      const uint2 v = LoadOnce(reinterpret_cast<const uint2*>(codes(0)));
      raw.codes[0][0][0] = v.x, raw.codes[0][1][0] = v.y;
    }
    LoadNumbers<kBlocks>(raw, unit + NumberOffset(kLayout, kBlocks, lane / 4, 0, 0, 0));
  }

  static __device__ void Put4(uint32_t (&codes)[2][kWords], const uint8_t* at) {
    const uint4 v = LoadOnce(reinterpret_cast<const uint4*>(at));
    codes[0][0] = v.x, codes[0][kWords - 1] = v.y, codes[1][0] = v.z, codes[1][kWords - 1] = v.w;
  }

  template <int kBlocks>
  static __device__ void LoadNumbers(Raw& raw, const uint8_t* at) {
    if constexpr (kBlocks * kNumbers == 4) {
      const uint4 v = LoadOnce(reinterpret_cast<const uint4*>(at));
      raw.numbers[0][0] = v.x, raw.numbers[0][kNumbers - 1] = v.y;
      raw.numbers[1][0] = v.z, raw.numbers[1][kNumbers - 1] = v.w;
    } else if constexpr (kBlocks * kNumbers == 2) {
      const uint2 v = LoadOnce(reinterpret_cast<const uint2*>(at));
      raw.numbers[0][0] = v.x;
      raw.numbers[kBlocks - 1][kNumbers - 1] = v.y;
    } else {
      raw.numbers[0][0] = LoadOnce(reinterpret_cast<const uint32_t*>(at));
    }
  }
};

using Q8_0Reader = BlockRows<DType::kQ8_0>;
using Q4_0Reader = BlockRows<DType::kQ4_0>;
using Q4_1Reader = BlockRows<DType::kQ4_1>;
using I4Reader = BlockRows<DType::kI4>;

}  // namespace shoal::cuda::linear
