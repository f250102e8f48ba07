// Vec and the block dot products for AVX2 + FMA + F16C. Included once, by set_avx2.cc; everything is local to it.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace shoal::ops::cpu {
namespace {

struct Vec {
  static constexpr int kLanes = 8;
  __m256 v;

  static Vec Set(float x) { return {_mm256_set1_ps(x)}; }
  static Vec Load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec LoadF16(const void* p) { return {_mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)))}; }
  static Vec LoadBF16(const void* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
  }
  // By way of f16: with the exponent's bias 15 in place of 7 a code is 2^8 times too small, and normal or not, exact.
  static Vec LoadF8E4M3(const uint8_t* p) {
    const __m128i codes = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    const __m128i sign = _mm_slli_epi16(_mm_and_si128(codes, _mm_set1_epi16(0x80)), 8);
    const __m128i magnitude = _mm_and_si128(codes, _mm_set1_epi16(0x7F));
    const __m128i nan = _mm_and_si128(_mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7F)), _mm_set1_epi16(0x7C00));
    const __m128i half = _mm_or_si128(_mm_or_si128(sign, _mm_slli_epi16(magnitude, 7)), nan);
    return {_mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256))};
  }
  static Vec LoadI8(const uint8_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
  }
  void Store(float* p) const { _mm256_storeu_ps(p, v); }
  void StoreF16(void* p) const {
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  // Round to nearest even; NaN keeps its upper bits and becomes quiet.
  void StoreBF16(void* p) const {
    const __m256i bits = _mm256_castps_si256(v), high = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i biased = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(64));
    const __m256i r = _mm256_blendv_epi8(_mm256_srli_epi32(biased, 16), quiet, nan);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
};

inline Vec Add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec Sub(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec Mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec Div(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
// a * b + c
inline Vec Fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
// b where either is NaN
inline Vec Max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Vec Abs(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }

// e^x with relative error about 2e-7; 0 below -87.3 (the smallest normal float), infinity above 88.7; NaN stays NaN.
// x = n ln 2 + r with |r| <= ln 2 / 2; the polynomial and the split of ln 2 are Cephes' expf (S. Moshier).
inline Vec Exp(Vec x) {
  const __m256 low = _mm256_set1_ps(-87.33654f), high = _mm256_set1_ps(88.72283f);
  const __m256 c = _mm256_max_ps(low, _mm256_min_ps(high, x.v));  // this operand order lets NaN through
  const __m256 n =
      _mm256_round_ps(_mm256_mul_ps(c, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), c);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  __m256 p = _mm256_set1_ps(1.9875691500e-4f);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
  p = _mm256_fmadd_ps(_mm256_mul_ps(p, r), r, _mm256_add_ps(r, _mm256_set1_ps(1.0f)));
  // 2^n in two factors: n is up to 128, one past the largest exponent.
  const __m256i e = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(e, 1), bias = _mm256_set1_epi32(127);
  const __m256 s1 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const __m256 s2 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(e, half), bias), 23));
  p = _mm256_mul_ps(_mm256_mul_ps(p, s1), s2);
  p = _mm256_andnot_ps(_mm256_cmp_ps(x.v, low, _CMP_LT_OQ), p);
  return {_mm256_blendv_ps(p, _mm256_set1_ps(__builtin_inff()), _mm256_cmp_ps(x.v, high, _CMP_GT_OQ))};
}

// The first `count` lanes of a, the rest of b.
inline Vec Head(int count, Vec a, Vec b) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_blendv_ps(b.v, a.v, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane)))};
}
inline float ReduceAdd(Vec a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float ReduceMax(Vec a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
// Lane i of the result is the sum of the lanes of a[i].
inline Vec ReduceEach(const Vec (&a)[8]) {
  const __m256 h01 = _mm256_hadd_ps(a[0].v, a[1].v), h23 = _mm256_hadd_ps(a[2].v, a[3].v);
  const __m256 h45 = _mm256_hadd_ps(a[4].v, a[5].v), h67 = _mm256_hadd_ps(a[6].v, a[7].v);
  const __m256 low = _mm256_hadd_ps(h01, h23), high = _mm256_hadd_ps(h45, h67);
  return {_mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31))};
}
inline bool AllFinite(Vec a) {  // x - x is 0 for a finite x, else NaN
  const __m256 zero = _mm256_sub_ps(a.v, a.v);
  return _mm256_movemask_ps(_mm256_cmp_ps(zero, zero, _CMP_UNORD_Q)) == 0;
}
// q[i] = round-half-even(a[i]) clamped to [-127, 127]; returns their sum.
inline int StoreInt8(Vec a, int8_t* q) {
  const __m256i limit = _mm256_set1_epi32(127);
  __m256i i = _mm256_min_epi32(_mm256_cvtps_epi32(a.v), limit);
  i = _mm256_max_epi32(i, _mm256_sub_epi32(_mm256_setzero_si256(), limit));
  const __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(q), _mm_packs_epi16(half, half));
  __m128i s = _mm_madd_epi16(half, _mm_set1_epi16(1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1)));
}

inline constexpr int kMaxTokens = 4;  // of one micro-kernel tile: sums, integers and weights fill 16 registers
inline constexpr int kPlainGroups(int tokens) { return tokens <= 2 ? 4 : 2; }

inline __m256i Broadcast4(const int8_t* x) {
  int32_t word;
  __builtin_memcpy(&word, x, sizeof word);
  return _mm256_set1_epi32(word);
}

// int8 by int8, exact: maddubs wants one unsigned side, so the weight's sign moves to the activation. With |x| <= 127 a
// pair reaches at most 2 * 128 * 127 = 32512: no saturation.
struct DotS8 {
  static constexpr float kBias = 0;
  struct Weights {
    __m256i w, magnitude;
  };
  struct Acc {
    __m256i v;  // int32
  };
  static Acc Zero() { return {_mm256_setzero_si256()}; }
  static Weights Load(const uint8_t* p) {
    const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {w, _mm256_abs_epi8(w)};
  }
  static Acc Step(Acc acc, Weights w, const int8_t* x) {
    const __m256i pairs = _mm256_maddubs_epi16(w.magnitude, _mm256_sign_epi8(Broadcast4(x), w.w));
    return {_mm256_add_epi32(acc.v, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
  }
  static Vec Finish(Acc acc) { return {_mm256_cvtepi32_ps(acc.v)}; }
};

// Nibbles 0..15 by int8: the 8 pairs that meet in one 16-bit lane reach at most 8 * 2 * 15 * 127 = 30480: no overflow.
struct DotU4 {
  struct Weights {
    __m256i w;
  };
  struct Acc {
    __m256i v;  // int16
  };
  static Acc Zero() { return {_mm256_setzero_si256()}; }
  static Weights LoadLow(const uint8_t* p) {
    return {_mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_set1_epi8(15))};
  }
  static Weights LoadHigh(const uint8_t* p) {
    const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm256_and_si256(_mm256_srli_epi16(w, 4), _mm256_set1_epi8(15))};
  }
  static Acc Step(Acc acc, Weights w, const int8_t* x) {
    return {_mm256_add_epi16(acc.v, _mm256_maddubs_epi16(w.w, Broadcast4(x)))};
  }
  static Vec Finish(Acc acc) { return {_mm256_cvtepi32_ps(_mm256_madd_epi16(acc.v, _mm256_set1_epi16(1)))}; }
};

}  // namespace
}  // namespace shoal::ops::cpu
