// Sampling weights in double, on the compiler's generic vectors (as wide as each set has them); without contraction
// every set computes the same bits. Included by set_*.cc; everything is local to that file.
#pragma once

#include "kernels/cpu/kernel_set.h"

namespace shoal::ops::cpu {
namespace {

inline constexpr int kWeightLanes = 8;
typedef double Doubles __attribute__((vector_size(kWeightLanes * 8)));
typedef int64_t Integers __attribute__((vector_size(kWeightLanes * 8)));
typedef float Floats __attribute__((vector_size(kWeightLanes * 4)));

// x = e^x for x <= 0 within about one unit in the last place; 0 below -708, where results would be subnormal.
// x = n ln 2 + r, |r| <= ln 2 / 2; e^r by its Taylor series (the first term left out is below 2e-18); ln 2 in two parts
// (W. Cody and W. Waite), the first with so many zeros at its end that n times it is exact.
inline void ExpInPlace(Doubles& x) {
  constexpr double kMagic = 0x1.8p52;  // adding it rounds to an integer, which then sits in the low bits
  constexpr double kLn2High = 0x1.62e42fee00000p-1, kLn2Low = 0x1.a39ef35793c76p-33;
  const Integers tiny = x < -708.0;
  const Doubles clamped = tiny ? Doubles{} - 708.0 : x;
  const Doubles shifted = clamped * 0x1.71547652b82fep0 + kMagic, n = shifted - kMagic;
  const Doubles r = (clamped - n * kLn2High) - n * kLn2Low;
  Doubles p = r * (1.0 / 6227020800) + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const Integers exponent = reinterpret_cast<Integers>(shifted) + (1023 - __builtin_bit_cast(int64_t, kMagic));
  const Integers scale = exponent << 52;
  const Doubles scaled = p * reinterpret_cast<Doubles>(scale);
  x = tiny ? Doubles{} : scaled;
}

// Of logits[0, count), count at most kWeightLanes; 0 in the lanes beyond.
inline void LoadWeights(const float* logits, int64_t count, double max, double temperature, Doubles& w) {
  Floats some;
  for (int i = 0; i < kWeightLanes; ++i) some[i] = i < count ? logits[i] : -__builtin_inff();
  w = (__builtin_convertvector(some, Doubles) - max) / temperature;
  ExpInPlace(w);
}

void WeightsKernel(const float* logits, int64_t count, double max, double temperature, double* w) {
  for (int64_t i = 0; i < count; i += kWeightLanes) {
    Doubles v;
    LoadWeights(logits + i, count - i, max, temperature, v);
    for (int j = 0; j < kWeightLanes && i + j < count; ++j) w[i + j] = v[j];
  }
}

// Eight interleaved sums, joined in order.
double TotalWeightKernel(const float* logits, int64_t count, double max, double temperature) {
  Doubles sums = {};
  int64_t i = 0;
  for (; i + kWeightLanes <= count; i += kWeightLanes) {
    Floats some;
    __builtin_memcpy(&some, logits + i, sizeof some);
    Doubles w = (__builtin_convertvector(some, Doubles) - max) / temperature;
    ExpInPlace(w);
    sums += w;
  }
  if (i < count) {
    Doubles w;
    LoadWeights(logits + i, count - i, max, temperature, w);
    sums += w;
  }
  double total = 0;
  for (int j = 0; j < kWeightLanes; ++j) total += sums[j];
  return total;
}

}  // namespace
}  // namespace shoal::ops::cpu
