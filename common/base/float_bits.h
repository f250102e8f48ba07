// Rounding of f32 to the shorter types by integer arithmetic, as it also runs on a device; dtype.h has it for the rest.
#pragma once

#include <cstdint>

#include "common/base/host_device.h"

namespace shoal {

SHOAL_HD constexpr uint32_t F32Bits(float f) { return __builtin_bit_cast(uint32_t, f); }

SHOAL_HD constexpr uint16_t RoundToF16(float f) {
  const uint32_t x = F32Bits(f);
  const uint32_t sign = x >> 16 & 0x8000, magnitude = x & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00);   // NaN
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00);  // rounds past 65504: infinity
  if (magnitude < 0x38800000u) {  // below 2^-14: subnormal; the addition rounds to nearest even
    const float rounded = __builtin_bit_cast(float, magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (F32Bits(rounded) - F32Bits(0.5f)));
  }
  const uint32_t odd = magnitude >> 13 & 1;
  return static_cast<uint16_t>(sign | (magnitude - 0x38000000u + 0xFFF + odd) >> 13);
}

SHOAL_HD constexpr uint16_t RoundToBF16(float f) {
  const uint32_t x = F32Bits(f);
  if ((x & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>(x >> 16 | 64);
  return static_cast<uint16_t>((x + 0x7FFF + (x >> 16 & 1)) >> 16);
}

SHOAL_HD constexpr uint8_t RoundToF8E4M3(float f) {
  const uint32_t x = F32Bits(f);
  const uint32_t sign = x >> 31 << 7, magnitude = x & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<uint8_t>(sign | 0x7F);       // NaN
  if (magnitude >= F32Bits(448.0f)) return static_cast<uint8_t>(sign | 0x7E);  // saturates
  if (magnitude < F32Bits(0x1p-6f)) {  // subnormal; the addition rounds to a multiple of 2^-9
    const float rounded = __builtin_bit_cast(float, magnitude) + 0x1p14f;
    return static_cast<uint8_t>(sign | (F32Bits(rounded) - F32Bits(0x1p14f)));
  }
  const uint32_t odd = magnitude >> 20 & 1;
  return static_cast<uint8_t>(sign | (magnitude - (uint32_t{127 - 7} << 23) + 0x7FFFF + odd) >> 20);
}

}  // namespace shoal
