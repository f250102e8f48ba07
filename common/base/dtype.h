// Element types of weights, activations and KV, and the layout of the block-quantised ones.
// Block layouts are GGUF's (ggml's published format), little-endian; a row of `k` elements is k / block consecutive
// blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace shoal {

enum class DType : uint8_t {
  kF32 = 0,
  kF16 = 1,
  kBF16 = 2,
  kQ8_0 = 3,  // 32 weights: f16 scale d, int8 q[32];               w = d * q
  kQ4_0 = 4,  // 32 weights: f16 scale d, 16 bytes of nibbles;      w = d * (q - 8)
  kQ4_1 = 5,  // 32 weights: f16 d, f16 min m, 16 bytes of nibbles; w = d * q + m
  //           nibbles: low half of byte i is weight i, high half is weight i + 16
  kF8E4M3 = 6,  // OCP FP8 E4M3: sign, exponent biased by 7, 3 bits of mantissa; no infinity, 0x7f and 0xff are NaN
  kI8 = 7,      // whole numbers
  kI4 = 8,      // 32 weights of a group: f16 scale d, zero point z, 16 bytes of nibbles; w = d * (q - z). A group of 64
                // or 128 is blocks that say the same, so that ranks may cut it at 32; symmetric ones have z = 8
};
inline constexpr int kDTypes = 9;

inline constexpr int kQuantBlock = 32;  // elements per block of every quantised type so far

struct BlockQ8_0 {
  uint16_t d;
  int8_t q[32];
};
struct BlockQ4_0 {
  uint16_t d;
  uint8_t q[16];
};
struct BlockQ4_1 {
  uint16_t d;
  uint16_t m;
  uint8_t q[16];
};
// This one is ours: what AWQ, GPTQ and compressed-tensors mean by their groups, whichever way they store it.
struct BlockI4 {
  uint16_t d;
  uint16_t z;  // 0 to 16 (GPTQ stores one less)
  uint8_t q[16];
};
static_assert(sizeof(BlockI4) == 20);
static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20);

struct DTypeInfo {
  std::string_view name;  // as on the command line: "f32", "q4_1", ...
  int block;              // elements per block; 1 for plain types, those of one byte too
  size_t block_bytes;
};
const DTypeInfo& Info(DType t);
std::optional<DType> DTypeFromName(std::string_view name);
inline bool IsQuantised(DType t) { return Info(t).block > 1; }
// One byte per element. What scales them is kept apart, one factor for each row (ops::Weight::row_scale).
inline bool IsByte(DType t) { return t == DType::kF8E4M3 || t == DType::kI8; }

// Bytes of `elements` consecutive elements. `elements` must be a multiple of the block.
size_t RowBytes(DType t, int64_t elements);

// IEEE binary16 and bfloat16, round to nearest even; NaN stays NaN.
float F16ToF32(uint16_t h);
uint16_t F32ToF16(float f);
inline float BF16ToF32(uint16_t h) { return __builtin_bit_cast(float, static_cast<uint32_t>(h) << 16); }
uint16_t F32ToBF16(float f);

// Multiples of 2^-9 up to 448. To nearest even; what lies beyond, infinity too, becomes +-448, and NaN stays NaN.
float F8E4M3ToF32(uint8_t code);
uint8_t F32ToF8E4M3(float f);

// The same values: codes of four bits less their zero point fit eight.
BlockQ8_0 WithoutZeroPoint(const BlockI4& b);

// dst[0, n) = the values of `n` elements of type `t` starting at `src`; n a multiple of the block.
void DequantiseRow(DType t, const void* src, int64_t n, float* dst);

}  // namespace shoal
