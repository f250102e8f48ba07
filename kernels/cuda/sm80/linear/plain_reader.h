// Weights that are rows of 16-bit numbers, for tile.h. See block_reader.h for what a reader is.
#pragma once

#include "kernels/cuda/linear_schedule.h"
#include "kernels/cuda/warp.h"

namespace shoal::cuda::linear {

// What both types share: 16-byte pieces of rows g and g + 8 of the tile, straight from the rows. Two blocks of a step
// make whole 128-byte lines.
struct PlainRows {
  struct Raw {
    uint4 of[2][2];  // [block][row g, row g + 8]: columns 8t .. 8t + 7
  };
  const uint4* base;  // the same for the whole block: only the offsets cost registers
  uint32_t row[2];

  // Rows past n are read as row n - 1: their results are nobody's.
  __device__ void Open(const void* w, int n, int k, int first_row, int lane) {
    base = static_cast<const uint4*>(w);
    SHOAL_UNROLL for (int high = 0; high < 2; ++high) {
      const uint32_t r = static_cast<uint32_t>(min(first_row + lane / 4 + 8 * high, n - 1));
      row[high] = r * static_cast<uint32_t>(k / 8) + static_cast<uint32_t>(lane % 4);
    }
  }
  __device__ void Load(Raw& raw, int step, bool whole) const {
    SHOAL_UNROLL for (int high = 0; high < 2; ++high) {
      const uint4* at = base + row[high] + step * (kStep / 8);
      raw.of[0][high] = LoadOnce(at);
      if (whole) {
        raw.of[1][high] = LoadOnce(at + kQuantBlock / 8);
      } else {
        raw.of[1][high] = uint4{};
      }
    }
  }
  static __device__ void NextBlock(Raw& raw) {
    SHOAL_UNROLL for (int high = 0; high < 2; ++high) raw.of[0][high] = raw.of[1][high];
  }
  static __device__ uint32_t Pair(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }
};

struct Bf16Reader : PlainRows {
  static constexpr DType kType = DType::kBF16;
  static constexpr int kTerms = 1;
  static constexpr bool kScaled = false;
  static constexpr bool kHasMinimum = false;
  static constexpr int kLaneColumns = 8;

  static __device__ void Expand(const Raw& raw, uint32_t (&a)[kTerms][2][4]) {
    SHOAL_UNROLL for (int i = 0; i < 4; ++i) {
      a[0][i / 2][i % 2 * 2] = Pair(raw.of[0][0], i);
      a[0][i / 2][i % 2 * 2 + 1] = Pair(raw.of[0][1], i);
    }
  }
};

// f16 has 11 significant bits and bf16 8: a weight is exactly the sum of two bf16, its upper bits and the rest.
struct F16Reader : PlainRows {
  static constexpr DType kType = DType::kF16;
  static constexpr int kTerms = 2;
  static constexpr bool kScaled = false;
  static constexpr bool kHasMinimum = false;
  static constexpr int kLaneColumns = 8;

  static __device__ void Split(uint32_t pair, uint32_t& upper, uint32_t& rest) {
    constexpr uint32_t kUpper = 0xffff0000u;
    const float2 w = UnpackF16(pair);
    const uint32_t x = __float_as_uint(w.x), y = __float_as_uint(w.y);
    upper = __byte_perm(x, y, 0x7632);
    rest = __byte_perm(__float_as_uint(w.x - __uint_as_float(x & kUpper)),
                       __float_as_uint(w.y - __uint_as_float(y & kUpper)), 0x7632);
  }
  static __device__ void Expand(const Raw& raw, uint32_t (&a)[kTerms][2][4]) {
    SHOAL_UNROLL for (int i = 0; i < 4; ++i) {
      SHOAL_UNROLL for (int high = 0; high < 2; ++high) {
        const int at = i % 2 * 2 + high;
        Split(Pair(raw.of[0][high], i), a[0][i / 2][at], a[1][i / 2][at]);
      }
    }
  }
};

}  // namespace shoal::cuda::linear
