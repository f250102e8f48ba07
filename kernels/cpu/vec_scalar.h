// Vec and the block dot products in plain C++: eight lanes, as AVX2 has, without fused multiply-adds.
// Included once, by set_scalar.cc; everything is local to it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/base/dtype.h"

namespace shoal::ops::cpu {
namespace {

struct Vec {
  static constexpr int kLanes = 8;
  float v[kLanes];

  template <typename F>
  static Vec Make(F f) {
    Vec r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = f(i);
    return r;
  }
  static Vec Set(float x) {
    return Make([=](int) { return x; });
  }
  static Vec Load(const float* p) {
    return Make([=](int i) { return p[i]; });
  }
  static Vec LoadF16(const void* p) {
    return Make([=](int i) { return F16ToF32(static_cast<const uint16_t*>(p)[i]); });
  }
  static Vec LoadBF16(const void* p) {
    return Make([=](int i) { return BF16ToF32(static_cast<const uint16_t*>(p)[i]); });
  }
  static Vec LoadF8E4M3(const uint8_t* p) {
    return Make([=](int i) { return F8E4M3ToF32(p[i]); });
  }
  static Vec LoadI8(const uint8_t* p) {
    return Make([=](int i) { return static_cast<float>(static_cast<int8_t>(p[i])); });
  }
  void Store(float* p) const { std::memcpy(p, v, sizeof v); }
  void StoreF16(void* p) const {
    for (int i = 0; i < kLanes; ++i) static_cast<uint16_t*>(p)[i] = F32ToF16(v[i]);
  }
  void StoreBF16(void* p) const {
    for (int i = 0; i < kLanes; ++i) static_cast<uint16_t*>(p)[i] = F32ToBF16(v[i]);
  }
};

inline Vec Add(const Vec& a, const Vec& b) {
  return Vec::Make([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vec Sub(const Vec& a, const Vec& b) {
  return Vec::Make([&](int i) { return a.v[i] - b.v[i]; });
}
inline Vec Mul(const Vec& a, const Vec& b) {
  return Vec::Make([&](int i) { return a.v[i] * b.v[i]; });
}
inline Vec Div(const Vec& a, const Vec& b) {
  return Vec::Make([&](int i) { return a.v[i] / b.v[i]; });
}
// a * b + c
inline Vec Fma(const Vec& a, const Vec& b, const Vec& c) {
  return Vec::Make([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
// b where either is NaN, as the x86 instruction.
inline Vec Max(const Vec& a, const Vec& b) {
  return Vec::Make([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec Abs(const Vec& a) {
  return Vec::Make([&](int i) { return std::fabs(a.v[i]); });
}
inline Vec Exp(const Vec& a) {
  return Vec::Make([&](int i) { return std::exp(a.v[i]); });
}
// The first `count` lanes of a, the rest of b.
inline Vec Head(int count, const Vec& a, const Vec& b) {
  return Vec::Make([&](int i) { return i < count ? a.v[i] : b.v[i]; });
}
inline float ReduceAdd(const Vec& a) {
  return ((a.v[0] + a.v[4]) + (a.v[2] + a.v[6])) + ((a.v[1] + a.v[5]) + (a.v[3] + a.v[7]));
}
inline float ReduceMax(const Vec& a) {
  float m = a.v[0];
  for (int i = 1; i < Vec::kLanes; ++i) m = m > a.v[i] ? m : a.v[i];
  return m;
}
// Lane i of the result is the sum of the lanes of a[i].
inline Vec ReduceEach(const Vec (&a)[Vec::kLanes]) {
  return Vec::Make([&](int i) { return ReduceAdd(a[i]); });
}
inline bool AllFinite(const Vec& a) {
  bool finite = true;
  for (float x : a.v) finite = finite && std::isfinite(x);
  return finite;
}
// q[i] = round-half-even(a[i]) clamped to [-127, 127]; returns their sum.
inline int StoreInt8(const Vec& a, int8_t* q) {
  int sum = 0;
  for (int i = 0; i < Vec::kLanes; ++i) {
    const float r = std::nearbyint(a.v[i]);
    q[i] = static_cast<int8_t>(r < -127.0f ? -127.0f : r > 127.0f ? 127.0f : r);
    sum += q[i];
  }
  return sum;
}

inline constexpr int kMaxTokens = 4;  // of one micro-kernel tile
inline constexpr int kPlainGroups(int /*tokens*/) { return 1; }

// Sums of products of one block, per lane; kBias is what the unsigned reading of the weights added to each of them.
struct IntVec {
  int32_t v[Vec::kLanes];
};
inline IntVec DotStep(const IntVec& acc, const int8_t* w, int w_shift, int w_mask, const int8_t* x) {
  IntVec r = acc;
  for (int lane = 0; lane < Vec::kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) r.v[lane] += ((w[lane * 4 + i] >> w_shift) & w_mask) * x[i];
  }
  return r;
}
inline Vec ToVec(const IntVec& a) {
  return Vec::Make([&](int i) { return static_cast<float>(a.v[i]); });
}

struct DotS8 {
  static constexpr float kBias = 0;
  struct Weights {
    const int8_t* p;
  };
  using Acc = IntVec;
  static Acc Zero() { return {}; }
  static Weights Load(const uint8_t* p) { return {reinterpret_cast<const int8_t*>(p)}; }
  static Acc Step(const Acc& acc, const Weights& w, const int8_t* x) { return DotStep(acc, w.p, 0, -1, x); }
  static Vec Finish(const Acc& acc) { return ToVec(acc); }
};
struct DotU4 {
  struct Weights {
    const int8_t* p;
    int shift;
  };
  using Acc = IntVec;
  static Acc Zero() { return {}; }
  static Weights LoadLow(const uint8_t* p) { return {reinterpret_cast<const int8_t*>(p), 0}; }
  static Weights LoadHigh(const uint8_t* p) { return {reinterpret_cast<const int8_t*>(p), 4}; }
  static Acc Step(const Acc& acc, const Weights& w, const int8_t* x) { return DotStep(acc, w.p, w.shift, 15, x); }
  static Vec Finish(const Acc& acc) { return ToVec(acc); }
};

}  // namespace
}  // namespace shoal::ops::cpu
