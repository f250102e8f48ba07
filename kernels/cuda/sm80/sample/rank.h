// The order of a row's logits, and their weights as integers.
// weight = e^-gap with gap = (largest - logit) / temperature, in units of 2^-39: kMaxVocab of them sum below 2^63,
// exactly, in any order.
#pragma once

#include "kernels/cuda/sample.h"

namespace shoal::cuda::sample {

inline constexpr int kMaxVocab = kMaxSampledVocab;
inline constexpr int kOneLog2 = 39;  // weight of the largest logit
inline constexpr int kBins = 2048;
inline constexpr int kBinsPerUnit =
    64;  // of the gap. The last bin has all from about 32 on: of weight 0, below e^-29.2
// A weight is added in three parts, by 32-bit counters (a GPU's shared memory adds no 64 bits at once): kMaxVocab times
// 2^13 - 1 in the lower parts, or 2^13 in the highest, fits.
inline constexpr int kLimbs = 3, kLimbBits = 13;
static_assert((uint64_t{kMaxVocab} << (kOneLog2 - (kLimbs - 1) * kLimbBits)) < uint64_t{1} << 32);
static_assert((uint64_t{kMaxVocab} << kLimbBits) - kMaxVocab < uint64_t{1} << 32);

SHOAL_HD inline bool IsNan(float x) { return (__builtin_bit_cast(uint32_t, x) & 0x7fffffffu) > 0x7f800000u; }

// x < y <=> KeyOf(x) < KeyOf(y), for all but NaN; -0 is 0.
SHOAL_HD inline uint32_t KeyOf(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  if (bits == 0x80000000u) return 0x80000000u;
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}
SHOAL_HD inline float OfKey(uint32_t key) {
  return __builtin_bit_cast(float, key >> 31 != 0 ? key & 0x7fffffffu : ~key);
}
inline constexpr uint32_t kKeyOfInfinity = 0xff800000u, kKeyOfMinusInfinity = 0x007fffffu;

// e^-gap in units of 2^-39, rounded; 0 from 32 on, and for NaN. e^r by its Taylor series, |r| <= ln 2 / 2 (the first
// term left out is below 2e-16); ln 2 in two parts (W. Cody and W. Waite). Only fused or single operations: the same
// bits wherever it is inlined.
SHOAL_HD inline uint64_t WeightOf(double gap) {
  constexpr double kMagic = 0x1.8p52;  // adding it rounds to an integer, which then sits in the low bits
  constexpr double kLn2High = 0x1.62e42fee00000p-1, kLn2Low = 0x1.a39ef35793c76p-33;
  if (!(gap < kBins / kBinsPerUnit)) return 0;
  const double shifted = fma(gap, -0x1.71547652b82fep0, kMagic), n = shifted - kMagic;
  const double r = fma(n, -kLn2Low, fma(n, -kLn2High, -gap));
  double p = fma(r, 1.0 / 479001600, 1.0 / 39916800);
  p = fma(p, r, 1.0 / 3628800);
  p = fma(p, r, 1.0 / 362880);
  p = fma(p, r, 1.0 / 40320);
  p = fma(p, r, 1.0 / 5040);
  p = fma(p, r, 1.0 / 720);
  p = fma(p, r, 1.0 / 120);
  p = fma(p, r, 1.0 / 24);
  p = fma(p, r, 1.0 / 6);
  p = fma(p, r, 0.5);
  p = fma(p, r, 1.0);
  p = fma(p, r, 1.0);
  const int64_t exponent = static_cast<int32_t>(__builtin_bit_cast(uint64_t, shifted)) + 1023 + kOneLog2;
  const double scale = __builtin_bit_cast(double, exponent << 52);
  constexpr double kInteger = 0x1p52;  // adding it to less than it rounds to an integer, in the low bits again
  return __builtin_bit_cast(uint64_t, fma(p, scale, kInteger)) - __builtin_bit_cast(uint64_t, kInteger);
}

// How logits fall into bins, the largest into bin 0; each bin's are neighbours in the order.
struct Cut {
  bool by_key;
  float largest, bins_per_logit;  // by the gap
  uint32_t low, high;             // by key, of those within [low, high]
  int shift;
};
// -1: in none.
SHOAL_HD inline int BinOf(const Cut& c, float logit) {
  if (!c.by_key) {
    const float bin = (c.largest - logit) * c.bins_per_logit;
    return bin < kBins - 1 ? static_cast<int>(bin) : kBins - 1;  // also for NaN, of 0 times infinity
  }
  const uint32_t key = KeyOf(logit);
  return key < c.low || key > c.high ? -1 : static_cast<int>((c.high - key) >> c.shift);
}
SHOAL_HD inline Cut CutByGap(float largest, float temperature) {
  const float bins = static_cast<float>(kBinsPerUnit) / temperature;
  return {false, largest, bins < 3e38f ? bins : 3e38f, 0, 0, 0};
}
// Bins of 2^shift keys, as few keys as kBins bins allow.
SHOAL_HD inline Cut CutByKey(uint32_t low, uint32_t high) {
  int shift = 0;
  while ((high - low) >> shift >= kBins) ++shift;
  return {true, 0, 0, low, high, shift};
}

}  // namespace shoal::cuda::sample
