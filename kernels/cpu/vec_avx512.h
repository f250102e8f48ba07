// Vec and the block dot products for AVX-512 (F, BW, VL, DQ) with VNNI. Included once, by set_avx512.cc; everything is
// local to it.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace shoal::ops::cpu {
namespace {

struct Vec {
  static constexpr int kLanes = 16;
  __m512 v;

  static Vec Set(float x) { return {_mm512_set1_ps(x)}; }
  static Vec Load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec LoadF16(const void* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))}; }
  static Vec LoadBF16(const void* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
  }
  // By way of f16: with the exponent's bias 15 in place of 7 a code is 2^8 times too small, and normal or not, exact.
  static Vec LoadF8E4M3(const uint8_t* p) {
    const __m256i codes = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(codes, _mm256_set1_epi16(0x80)), 8);
    const __m256i magnitude = _mm256_and_si256(codes, _mm256_set1_epi16(0x7F));
    const __m256i half = _mm256_or_si256(sign, _mm256_slli_epi16(magnitude, 7));
    const __mmask16 nan = _mm256_cmpeq_epi16_mask(magnitude, _mm256_set1_epi16(0x7F));
    const __m256i all = _mm256_mask_mov_epi16(half, nan, _mm256_set1_epi16(0x7E00));
    return {_mm512_mul_ps(_mm512_cvtph_ps(all), _mm512_set1_ps(256))};
  }
  static Vec LoadI8(const uint8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
  }
  void Store(float* p) const { _mm512_storeu_ps(p, v); }
  void StoreF16(void* p) const {
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  // Round to nearest even; NaN keeps its upper bits and becomes quiet. (The BF16 extension would flush subnormals.)
  void StoreBF16(void* p) const {
    const __m512i bits = _mm512_castps_si512(v), high = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i biased = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(64));
    const __m512i r = _mm512_mask_mov_epi32(_mm512_srli_epi32(biased, 16), nan, quiet);
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(r));
  }
};

inline Vec Add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec Sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec Mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec Div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
// a * b + c
inline Vec Fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// b where either is NaN
inline Vec Max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec Abs(Vec a) { return {_mm512_abs_ps(a.v)}; }

// e^x with relative error about 2e-7; 0 below -87.3 (the smallest normal float), infinity above 88.7; NaN stays NaN.
// x = n ln 2 + r with |r| <= ln 2 / 2; the polynomial and the split of ln 2 are Cephes' expf (S. Moshier).
inline Vec Exp(Vec x) {
  const __m512 low = _mm512_set1_ps(-87.33654f), high = _mm512_set1_ps(88.72283f);
  const __m512 c = _mm512_max_ps(low, _mm512_min_ps(high, x.v));  // this operand order lets NaN through
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(c, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), c);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_fmadd_ps(_mm512_mul_ps(p, r), r, _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  p = _mm512_scalef_ps(p, n);
  p = _mm512_mask_mov_ps(p, _mm512_cmp_ps_mask(x.v, low, _CMP_LT_OQ), _mm512_setzero_ps());
  return {_mm512_mask_mov_ps(p, _mm512_cmp_ps_mask(x.v, high, _CMP_GT_OQ), _mm512_set1_ps(__builtin_inff()))};
}

// The first `count` lanes of a, the rest of b.
inline Vec Head(int count, Vec a, Vec b) {
  const __mmask16 mask = static_cast<__mmask16>(count >= 16 ? 0xFFFF : (1 << count) - 1);
  return {_mm512_mask_mov_ps(b.v, mask, a.v)};
}
inline float ReduceAdd(Vec a) {
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float ReduceMax(Vec a) {
  const __m256 h = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
// Sums of four vectors' lanes within each 128-bit quarter: quarter i of the result is {a_i, b_i, c_i, d_i}.
inline __m512 ReduceFour(Vec a, Vec b, Vec c, Vec d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a.v, b.v), _mm512_unpackhi_ps(a.v, b.v));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c.v, d.v), _mm512_unpackhi_ps(c.v, d.v));
  return _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
}
// Lane i of the result is the sum of the lanes of a[i].
inline Vec ReduceEach(const Vec (&a)[16]) {
  const __m512 r0 = ReduceFour(a[0], a[1], a[2], a[3]), r1 = ReduceFour(a[4], a[5], a[6], a[7]);
  const __m512 r2 = ReduceFour(a[8], a[9], a[10], a[11]), r3 = ReduceFour(a[12], a[13], a[14], a[15]);
  // Add the four quarters of each: a 4 x 4 transposition of quarters, two levels.
  const __m512 s01 = _mm512_add_ps(_mm512_shuffle_f32x4(r0, r1, 0x44), _mm512_shuffle_f32x4(r0, r1, 0xEE));
  const __m512 s23 = _mm512_add_ps(_mm512_shuffle_f32x4(r2, r3, 0x44), _mm512_shuffle_f32x4(r2, r3, 0xEE));
  return {_mm512_add_ps(_mm512_shuffle_f32x4(s01, s23, 0x88), _mm512_shuffle_f32x4(s01, s23, 0xDD))};
}
inline bool AllFinite(Vec a) {  // x - x is 0 for a finite x, else NaN
  const __m512 zero = _mm512_sub_ps(a.v, a.v);
  return _mm512_cmp_ps_mask(zero, zero, _CMP_UNORD_Q) == 0;
}
// q[i] = round-half-even(a[i]) clamped to [-127, 127]; returns their sum.
inline int StoreInt8(Vec a, int8_t* q) {
  __m512i i = _mm512_min_epi32(_mm512_cvtps_epi32(a.v), _mm512_set1_epi32(127));
  i = _mm512_max_epi32(i, _mm512_set1_epi32(-127));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(i));
  const __m256i h = _mm256_add_epi32(_mm512_castsi512_si256(i), _mm512_extracti64x4_epi64(i, 1));
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1)));
}

inline constexpr int kMaxTokens = 8;  // of one micro-kernel tile: 8 sums, 8 integers and the weights fit 32 registers
inline constexpr int kPlainGroups(int tokens) { return tokens <= 2 ? 4 : 2; }

inline __m512i Broadcast4(const int8_t* x) {
  int32_t word;
  __builtin_memcpy(&word, x, sizeof word);
  return _mm512_set1_epi32(word);
}

// vpdpbusd multiplies unsigned by signed: the weights are read as w + 128, and 128 times the activations' sum comes off
// in floats afterwards (kBias).
struct DotS8 {
  static constexpr float kBias = 128;
  struct Weights {
    __m512i w;
  };
  struct Acc {
    __m512i v;  // int32
  };
  static Acc Zero() { return {_mm512_setzero_si512()}; }
  static Weights Load(const uint8_t* p) { return {_mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(-128))}; }
  static Acc Step(Acc acc, Weights w, const int8_t* x) { return {_mm512_dpbusd_epi32(acc.v, w.w, Broadcast4(x))}; }
  static Vec Finish(Acc acc) { return {_mm512_cvtepi32_ps(acc.v)}; }
};

// Nibbles 0..15 by int8.
struct DotU4 {
  using Weights = DotS8::Weights;
  using Acc = DotS8::Acc;
  static Acc Zero() { return DotS8::Zero(); }
  static Weights LoadLow(const uint8_t* p) { return {_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(15))}; }
  static Weights LoadHigh(const uint8_t* p) {
    return {_mm512_and_si512(_mm512_srli_epi16(_mm512_loadu_si512(p), 4), _mm512_set1_epi8(15))};
  }
  static Acc Step(Acc acc, Weights w, const int8_t* x) { return DotS8::Step(acc, w, x); }
  static Vec Finish(Acc acc) { return DotS8::Finish(acc); }
};

}  // namespace
}  // namespace shoal::ops::cpu
