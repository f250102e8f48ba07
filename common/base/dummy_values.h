// Dummy weights: each element of a tensor is a pure function of (seed, tensor, place), in integer arithmetic on
// counter-based random numbers, each value a small integer times a power of two that is rounded once to the stored
// type. So it is the same to the bit in every layout and on every device: a host makes bytes (DummyBytes), a device the
// same ones where they shall lie (kernels/ops/dummy_matrix.h).
#pragma once

#include <cstddef>
#include <cstring>
#include <span>

#include "common/base/dtype.h"
#include "common/base/float_bits.h"
#include "common/base/host_device.h"
#include "common/base/philox.h"

namespace shoal {

// What a tensor of no block-quantised type is for. Scaled: a matrix of one byte per element whose rows have scales, and
// those.
enum class DummyKind : uint8_t { kWeight, kNorm, kScaledWeight, kFp8Scale, kInt8Scale };

struct DummyTensor {
  uint64_t seed, stream;  // stream: of the tensor, a hash of its name
  DType type;
  DummyKind kind;
};

// dst = bytes [offset, offset + dst.size()) of the tensor as it is stored: row-major, canonical blocks.
void DummyBytes(const DummyTensor& tensor, int64_t offset, std::span<std::byte> dst);

// ---- The definition. ----
// Values are made in units that do not depend on the range asked for: four elements of a plain type or of one byte (one
// draw of 64 bits), one block of a quantised type (kDummyDrawsPerBlock draws).
inline constexpr int kDummyUnit = 4;
inline constexpr uint64_t kDummyDrawsPerBlock =
    8;  // the scale's, up to four of values; a power of two for easy reading

SHOAL_HD constexpr uint64_t DummyBits(const DummyTensor& t, uint64_t draw) {
  return PhiloxBits(t.seed, t.stream, draw);
}
// The 16 bits of element `index`, of the draw of its unit.
SHOAL_HD constexpr uint16_t DummyBitsOf(uint64_t unit_bits, uint64_t index) {
  return static_cast<uint16_t>(unit_bits >> 16 * (index % kDummyUnit));
}

// Integer in [-255, 255] from 16 random bits: triangular, standard deviation 104.5.
SHOAL_HD constexpr int DummyTriangle(uint16_t bits) { return (bits & 255) + (bits >> 8) - 255; }

// Weights: +-0.047, standard deviation 0.019. Norms: 1 +- 0.06. Scales: such that scaled weights, which are
// DummyTriangle() in fp8 and half of it in int8, deviate by 0.019 too.
SHOAL_HD constexpr float DummyPlain(uint16_t bits, DummyKind kind) {
  const int t = DummyTriangle(bits), steps = bits & 15;
  switch (kind) {
    case DummyKind::kNorm:
      return static_cast<float>(4096 + t) * 0x1p-12f;
    case DummyKind::kFp8Scale:
      return static_cast<float>(88 + steps) * 0x1p-19f;
    case DummyKind::kInt8Scale:
      return static_cast<float>(88 + steps) * 0x1p-18f;
    case DummyKind::kWeight:
    case DummyKind::kScaledWeight:
      return static_cast<float>(3 * t) * 0x1p-14f;
  }
  return 0;
}

// An int8 without scales, which no checkpoint is known to have, is as large as one with them.
SHOAL_HD constexpr uint8_t DummyByte(DType type, uint16_t bits, DummyKind kind) {
  const int t = DummyTriangle(bits);
  if (type == DType::kI8) return static_cast<uint8_t>(t / 2);
  return RoundToF8E4M3(kind == DummyKind::kScaledWeight ? static_cast<float>(t) : DummyPlain(bits, kind));
}

// Block `index` of the tensor. Scales lie in [1, 1.25) x a power of two that gives a standard deviation near 0.02;
// values are symmetric about zero.
SHOAL_HD constexpr float DummyMantissa(const DummyTensor& t, uint64_t index) {
  const auto steps = static_cast<int>(DummyBits(t, index * kDummyDrawsPerBlock) & 15);
  return static_cast<float>(64 + steps);  // d = (64 + steps) / 64 x 2^e
}
template <int kBytes>
SHOAL_HD inline void DummyCodes(const DummyTensor& t, uint64_t index, uint8_t (&codes)[kBytes]) {
  for (uint64_t i = 0; i < kBytes / 8; ++i) {
    const uint64_t bits = DummyBits(t, index * kDummyDrawsPerBlock + 1 + i);
    memcpy(codes + 8 * i, &bits, 8);
  }
}
SHOAL_HD inline void MakeDummyBlock(const DummyTensor& t, uint64_t index, BlockQ8_0* b) {
  uint8_t codes[32];
  DummyCodes(t, index, codes);
  b->d = RoundToF16(DummyMantissa(t, index) * 0x1p-18f);  // values in [-127, 127], deviation 73
  for (int i = 0; i < 32; ++i) b->q[i] = static_cast<int8_t>(codes[i] == 128 ? 0 : codes[i]);
}
SHOAL_HD inline void MakeDummyBlock(const DummyTensor& t, uint64_t index, BlockQ4_0* b) {
  DummyCodes(t, index, b->q);
  b->d = RoundToF16(DummyMantissa(t, index) * 0x1p-14f);
  for (uint8_t& q : b->q) {  // nibbles 1..15 around 8, deviation 4.2
    const int low = q & 15, high = q >> 4;
    q = static_cast<uint8_t>((low == 0 ? 8 : low) | (high == 0 ? 8 : high) << 4);
  }
}
SHOAL_HD inline void MakeDummyBlock(const DummyTensor& t, uint64_t index, BlockQ4_1* b) {
  DummyCodes(t, index, b->q);
  const float mantissa = DummyMantissa(t, index);
  b->d = RoundToF16(mantissa * 0x1p-14f);
  b->m = RoundToF16(mantissa * -15.0f * 0x1p-15f);
}
// Four zero points about the middle of the codes, so that the mean over blocks is zero.
SHOAL_HD inline void MakeDummyBlock(const DummyTensor& t, uint64_t index, BlockI4* b) {
  DummyCodes(t, index, b->q);
  b->d = RoundToF16(DummyMantissa(t, index) * 0x1p-14f);
  b->z = static_cast<uint16_t>(6 + (DummyBits(t, index * kDummyDrawsPerBlock) >> 4 & 3));
}

}  // namespace shoal
