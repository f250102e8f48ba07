// Weights of one byte, fp8 and int8, in the layout of linear_layout.h, for tile.h. See block_reader.h for what a reader
// is.
//
// Both are exact in bf16. What scales a row meets its whole sum, so that the tensor cores sum in place as for bf16.
#pragma once

#include "kernels/cuda/sm80/linear/block_reader.h"

namespace shoal::cuda::linear {

// Pair i (0 to 3) of eight codes of e4m3, exactly; what is not a number comes as 480 (linear_layout.h: the factors).
__device__ inline uint32_t Fp8Pair(const uint32_t (&words)[2], int i) {
  // With exponent and mantissa where bf16 has the lower bits of its own, a code reads 2^120 times too small, normal or
  // not: the biases are 127 and 7, and bf16's fma takes subnormal numbers as they are. Adding -0 keeps every sign.
  constexpr uint32_t kEach = 0x00010001u, kTo120 = 0x7b80 * kEach, kMinus0 = 0x8000 * kEach;
  const uint32_t upper =
      __byte_perm(words[i / 2], 0, i % 2 == 0 ? 0x1404 : 0x3424);  // each in the upper half of 16 bits
  return FmaBf16((upper >> 4 & 0x07f0 * kEach) | (upper & 0x8000 * kEach), kTo120, kMinus0);
}

template <DType kOf>
struct ByteRows : TileRows {
  static constexpr DType kType = kOf;
  static constexpr int kTerms = 1;
  static constexpr bool kScaled = false;
  static constexpr bool kHasMinimum = false;
  static constexpr bool kHasFactors = kType == DType::kF8E4M3;
  static constexpr BlockLayout kLayout = LayoutOf(kType);

  struct Raw {
    uint32_t codes[2][2][2];  // [block][row g, row g + 8]: columns 8t .. 8t + 7
  };

  __device__ void Open(const void* w, int n, int k, int first_row, int lane_of_warp) {
    OpenTile(w, first_row, n, TileBytes(kLayout, k), lane_of_warp);
  }

  __device__ void Load(Raw& raw, int step, bool whole) const {
    static_assert(kLayout.BlockBytes() % 32 == 0 && kLayout.factor_bytes * kRowTile % 32 == 0);
    // Where the codes of a block lie is the same in a unit of one block and of two.
    static_assert(CodeOffset(kLayout, 1, 31, 0, 0) == CodeOffset(kLayout, 2, 31, 0, 0));
    const uint8_t* unit = Unit(step, static_cast<int>(UnitOffset(kLayout, 1)));
    Load16(raw.codes[0], unit + CodeOffset(kLayout, 2, lane, 0, 0));
    if (whole) {
      Load16(raw.codes[1], unit + CodeOffset(kLayout, 2, lane, 1, 0));
    } else {
      SHOAL_UNROLL for (int high = 0; high < 2; ++high) raw.codes[1][high][0] = raw.codes[1][high][1] = 0;
    }
  }

  static __device__ void Expand(const Raw& raw, uint32_t (&a)[kTerms][2][4]) {
    SHOAL_UNROLL for (int i = 0; i < 4; ++i) {
      SHOAL_UNROLL for (int high = 0; high < 2; ++high) {
        uint32_t& pair = a[0][i / 2][i % 2 * 2 + high];
        pair = kType == DType::kI8 ? Int8Pair(raw.codes[0][high], i) : Fp8Pair(raw.codes[0][high], i);
      }
    }
  }
  static __device__ void NextBlock(Raw& raw) {
    SHOAL_UNROLL for (int high = 0; high < 2; ++high) {
      SHOAL_UNROLL for (int i = 0; i < 2; ++i) raw.codes[0][high][i] = raw.codes[1][high][i];
    }
  }

  static __device__ float Factor(const void* w, int k, int row) {
    const uint8_t* tile = static_cast<const uint8_t*>(w) + row / kRowTile * TileBytes(kLayout, k);
    return *reinterpret_cast<const float*>(tile + FactorOffset(kLayout, k, row % kRowTile));
  }

 private:
  static __device__ void Load16(uint32_t (&codes)[2][2], const uint8_t* at) {
    const uint4 v = LoadOnce(reinterpret_cast<const uint4*>(at));
    codes[0][0] = v.x, codes[0][1] = v.y, codes[1][0] = v.z, codes[1][1] = v.w;
  }
};

using F8E4M3Reader = ByteRows<DType::kF8E4M3>;
using I8Reader = ByteRows<DType::kI8>;

}  // namespace shoal::cuda::linear
