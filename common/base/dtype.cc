#include "common/base/dtype.h"

#include <array>
#include <bit>
#include <cstring>

#include "common/base/check.h"
#include "common/base/float_bits.h"

namespace shoal {
namespace {

constexpr std::array<DTypeInfo, kDTypes> kInfo = {{
    {"f32", 1, 4},
    {"f16", 1, 2},
    {"bf16", 1, 2},
    {"q8_0", kQuantBlock, sizeof(BlockQ8_0)},
    {"q4_0", kQuantBlock, sizeof(BlockQ4_0)},
    {"q4_1", kQuantBlock, sizeof(BlockQ4_1)},
    {"fp8", 1, 1},
    {"int8", 1, 1},
    {"int4", kQuantBlock, sizeof(BlockI4)},
}};

void DequantiseQ8_0(const BlockQ8_0& b, float* dst) {
  const float d = F16ToF32(b.d);
  for (int i = 0; i < kQuantBlock; ++i) dst[i] = d * static_cast<float>(b.q[i]);
}

void DequantiseQ4_0(const BlockQ4_0& b, float* dst) {
  const float d = F16ToF32(b.d);
  for (int i = 0; i < kQuantBlock / 2; ++i) {
    dst[i] = d * static_cast<float>((b.q[i] & 15) - 8);
    dst[i + kQuantBlock / 2] = d * static_cast<float>((b.q[i] >> 4) - 8);
  }
}

void DequantiseQ4_1(const BlockQ4_1& b, float* dst) {
  const float d = F16ToF32(b.d), m = F16ToF32(b.m);
  for (int i = 0; i < kQuantBlock / 2; ++i) {
    dst[i] = d * static_cast<float>(b.q[i] & 15) + m;
    dst[i + kQuantBlock / 2] = d * static_cast<float>(b.q[i] >> 4) + m;
  }
}

}  // namespace

const DTypeInfo& Info(DType t) {
  const auto i = static_cast<size_t>(t);
  SHOAL_CHECK(i < kInfo.size());
  return kInfo[i];
}

std::optional<DType> DTypeFromName(std::string_view name) {
  for (size_t i = 0; i < kInfo.size(); ++i) {
    if (kInfo[i].name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

size_t RowBytes(DType t, int64_t elements) {
  const DTypeInfo& info = Info(t);
  SHOAL_CHECK(elements >= 0 && elements % info.block == 0);
  return static_cast<size_t>(elements / info.block) * info.block_bytes;
}

float F16ToF32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
  const uint32_t exponent = (h >> 10) & 31, mantissa = h & 1023;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | mantissa << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  const float subnormal = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -subnormal : subnormal;
}

uint16_t F32ToF16(float f) { return RoundToF16(f); }

uint16_t F32ToBF16(float f) { return RoundToBF16(f); }

float F8E4M3ToF32(uint8_t code) {
  const uint32_t sign = uint32_t{code} >> 7 << 31, magnitude = code & 127;
  if (magnitude == 127) return std::bit_cast<float>(sign | 0x7FC00000u);
  if (magnitude >= 8) return std::bit_cast<float>(sign | (magnitude + (127 - 7) * 8) << 20);
  const float subnormal = static_cast<float>(magnitude) * 0x1p-9f;
  return sign != 0 ? -subnormal : subnormal;
}

uint8_t F32ToF8E4M3(float f) { return RoundToF8E4M3(f); }

BlockQ8_0 WithoutZeroPoint(const BlockI4& b) {
  BlockQ8_0 out = {.d = b.d, .q = {}};
  for (int i = 0; i < kQuantBlock / 2; ++i) {
    out.q[i] = static_cast<int8_t>((b.q[i] & 15) - b.z);
    out.q[i + kQuantBlock / 2] = static_cast<int8_t>((b.q[i] >> 4) - b.z);
  }
  return out;
}

void DequantiseRow(DType t, const void* src, int64_t n, float* dst) {
  const int64_t blocks = n / Info(t).block;
  SHOAL_CHECK(n % Info(t).block == 0);
  const auto* half = static_cast<const uint16_t*>(src);
  switch (t) {
    case DType::kF32:
      std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < n; ++i) dst[i] = F16ToF32(half[i]);
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < n; ++i) dst[i] = BF16ToF32(half[i]);
      return;
    case DType::kQ8_0:
      for (int64_t i = 0; i < blocks; ++i) DequantiseQ8_0(static_cast<const BlockQ8_0*>(src)[i], dst + i * kQuantBlock);
      return;
    case DType::kQ4_0:
      for (int64_t i = 0; i < blocks; ++i) DequantiseQ4_0(static_cast<const BlockQ4_0*>(src)[i], dst + i * kQuantBlock);
      return;
    case DType::kQ4_1:
      for (int64_t i = 0; i < blocks; ++i) DequantiseQ4_1(static_cast<const BlockQ4_1*>(src)[i], dst + i * kQuantBlock);
      return;
    case DType::kI4:
      for (int64_t i = 0; i < blocks; ++i)
        DequantiseQ8_0(WithoutZeroPoint(static_cast<const BlockI4*>(src)[i]), dst + i * kQuantBlock);
      return;
    case DType::kF8E4M3:
      for (int64_t i = 0; i < n; ++i) dst[i] = F8E4M3ToF32(static_cast<const uint8_t*>(src)[i]);
      return;
    case DType::kI8:
      for (int64_t i = 0; i < n; ++i) dst[i] = static_cast<const int8_t*>(src)[i];
      return;
  }
}

}  // namespace shoal
