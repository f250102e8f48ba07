// Weights that are rows of one byte per number, fp8 and int8, for tile.h. See block_reader.h for what a reader is.
//
// Both are exact in bf16. What scales a row meets its whole sum, so that the tensor cores sum in place as for bf16.
#pragma once

#include "kernels/cuda/sm80/linear/block_reader.h"

namespace shoal::cuda::linear {

// Pair i (0 to 3) of eight codes of e4m3, exactly.
__device__ inline uint32_t Fp8Pair(const uint32_t (&words)[2], int i) {
  // With exponent and mantissa where bf16 has the lower bits of its own, a code reads 2^120 times too small, normal or
  // not: the biases are 127 and 7, and bf16's fma takes subnormal numbers as they are. Adding -0 keeps every sign.
  constexpr uint32_t kEach = 0x00010001u, kTo120 = 0x7b80 * kEach, kMinus0 = 0x8000 * kEach;
  const uint32_t upper =
      __byte_perm(words[i / 2], 0, i % 2 == 0 ? 0x1404 : 0x3424);  // each in the upper half of 16 bits
  return FmaBf16((upper >> 4 & 0x07f0 * kEach) | (upper & 0x8000 * kEach), kTo120, kMinus0);
}

// A lane has 16 columns of a step of each row, 16 contiguous bytes; the first eight are its share of the step's first
// block. So a step of a row is 64 contiguous bytes, and two steps are a 128-byte line.
template <DType kOf>
struct ByteRows {
  static constexpr DType kType = kOf;
  static constexpr int kTerms = 1;
  static constexpr bool kScaled = false;
  static constexpr bool kHasMinimum = false;
  static constexpr int kLaneColumns = 16;

  struct Raw {
    uint32_t codes[2][2][2];  // [block][row g, row g + 8]: columns 16t + 8 block .. + 7 of the step
  };
  const uint4* base;  // the same for the whole block: only the offsets cost registers
  uint32_t row[2];
  bool in_half;  // whether a step of 32 columns has this lane's

  // Rows past n are read as row n - 1: their results are nobody's.
  __device__ void Open(const void* w, int n, int k, int first_row, int lane) {
    base = static_cast<const uint4*>(w);
    SHOAL_UNROLL for (int high = 0; high < 2; ++high) {
      const uint32_t r = static_cast<uint32_t>(min(first_row + lane / 4 + 8 * high, n - 1));
      row[high] = r * static_cast<uint32_t>(k / 16) + static_cast<uint32_t>(lane % 4);
    }
    in_half = lane % 4 < 2;
  }

  __device__ void Load(Raw& raw, int step, bool whole) const {
    SHOAL_UNROLL for (int high = 0; high < 2; ++high) {
      uint4 v = {};
      if (whole || in_half) v = LoadOnce(base + row[high] + step * (kStep / 16));
      raw.codes[0][high][0] = v.x, raw.codes[0][high][1] = v.y;
      raw.codes[1][high][0] = v.z, raw.codes[1][high][1] = v.w;
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
};

using F8E4M3Reader = ByteRows<DType::kF8E4M3>;
using I8Reader = ByteRows<DType::kI8>;

}  // namespace shoal::cuda::linear
