// Quantise, RMS norm, gated units and cache stores on Vec: one row, or a run of elements.
// Included by set_*.cc after a vec_*.h; everything is local to that file.
#pragma once

#include "common/base/dtype.h"
#include "kernels/cpu/kernel_set.h"

namespace shoal::ops::cpu {
namespace {

// Lanes past `count` are zero; nothing past src + count is read.
inline Vec LoadSome(const float* src, int64_t count) {
  if (count >= Vec::kLanes) return Vec::Load(src);
  float all[Vec::kLanes] = {};
  for (int64_t i = 0; i < count; ++i) all[i] = src[i];
  return Vec::Load(all);
}
inline void StoreSome(const Vec& v, float* dst, int64_t count) {
  if (count >= Vec::kLanes) return v.Store(dst);
  float all[Vec::kLanes];
  v.Store(all);
  for (int64_t i = 0; i < count; ++i) dst[i] = all[i];
}

void QuantiseKernel(const float* x, int k, int8_t* q, float* scale, float* sum) {
  for (int b = 0; b < k / kQuantBlock; ++b, x += kQuantBlock, q += kQuantBlock) {
    constexpr int kVectors = kQuantBlock / Vec::kLanes;
    Vec v[kVectors], max = Vec::Set(0);
    bool finite = true;
    for (int i = 0; i < kVectors; ++i) {
      v[i] = Vec::Load(x + i * Vec::kLanes);
      max = Max(max, Abs(v[i]));
      finite = finite && AllFinite(v[i]);
    }
    const float d = ReduceMax(max) / 127.0f;
    if (!finite || d == 0) {
      for (int i = 0; i < kQuantBlock; ++i) q[i] = 0;
      scale[b] = sum[b] = finite ? 0.0f : __builtin_nanf("");
      continue;
    }
    int total = 0;
    for (int i = 0; i < kVectors; ++i) total += StoreInt8(Div(v[i], Vec::Set(d)), q + i * Vec::kLanes);
    scale[b] = d;
    sum[b] = d * static_cast<float>(total);
  }
}

void RmsNormKernel(float* x, const float* add, const float* w, float* y, int dim, float eps, float weight_bias) {
  Vec squares = Vec::Set(0);
  for (int i = 0; i < dim; i += Vec::kLanes) {
    Vec v = LoadSome(x + i, dim - i);
    if (add != nullptr) {
      v = Add(v, LoadSome(add + i, dim - i));
      StoreSome(v, x + i, dim - i);
    }
    squares = Fma(v, v, squares);
  }
  if (w == nullptr) return;
  const Vec inverse = Vec::Set(1.0f / __builtin_sqrtf(ReduceAdd(squares) / static_cast<float>(dim) + eps));
  const Vec bias = Vec::Set(weight_bias);
  for (int i = 0; i < dim; i += Vec::kLanes) {
    const Vec scaled = Mul(LoadSome(x + i, dim - i), inverse);
    StoreSome(Mul(scaled, Add(LoadSome(w + i, dim - i), bias)), y + i, dim - i);
  }
}

// Lanes beyond the end of a row would differ from the mean: the difference goes through memory, where they stay 0.
void LayerNormKernel(float* x, const float* add, const float* w, const float* bias, float* y, int dim, float eps) {
  Vec sum = Vec::Set(0);
  for (int i = 0; i < dim; i += Vec::kLanes) {
    Vec v = LoadSome(x + i, dim - i);
    if (add != nullptr) {
      v = Add(v, LoadSome(add + i, dim - i));
      StoreSome(v, x + i, dim - i);
    }
    sum = Add(sum, v);
  }
  if (w == nullptr) return;
  const Vec mean = Vec::Set(ReduceAdd(sum) / static_cast<float>(dim));
  Vec squares = Vec::Set(0);
  for (int i = 0; i < dim; i += Vec::kLanes) {
    float apart[Vec::kLanes] = {};
    StoreSome(Sub(LoadSome(x + i, dim - i), mean), apart, dim - i);
    const Vec v = LoadSome(apart, Vec::kLanes);
    squares = Fma(v, v, squares);
  }
  const Vec inverse = Vec::Set(1.0f / __builtin_sqrtf(ReduceAdd(squares) / static_cast<float>(dim) + eps));
  for (int i = 0; i < dim; i += Vec::kLanes) {
    const Vec scaled = Mul(Sub(LoadSome(x + i, dim - i), mean), inverse);
    const Vec weighted = Mul(scaled, LoadSome(w + i, dim - i));
    StoreSome(bias == nullptr ? weighted : Add(weighted, LoadSome(bias + i, dim - i)), y + i, dim - i);
  }
}

struct Silu {
  static Vec Of(const Vec& x) { return Div(x, Add(Vec::Set(1), Exp(Sub(Vec::Set(0), x)))); }
};
// 0.5 (1 + tanh(z)) = 1 / (1 + exp(-2 z)),   z = sqrt(2 / pi) (x + 0.044715 x^3)
struct GeluTanh {
  static Vec Of(const Vec& x) {
    const Vec z = Mul(Vec::Set(-2 * 0.7978845608f), Fma(Mul(Mul(x, x), x), Vec::Set(0.044715f), x));
    return Div(x, Add(Vec::Set(1), Exp(z)));
  }
};
// x Phi(x). With z = |x| / sqrt(2), 1 - Phi(|x|) = 0.5 erfc(z); erfc(z) = t exp(-z^2 + c0 + t (c1 + t (c2 + ..))),
// t = 1 / (1 + z / 2), within 1.2e-7 of its value: Press et al., Numerical Recipes in C, section 6.2.
struct Gelu {
  static Vec Of(const Vec& x) {
    const Vec z = Mul(Abs(x), Vec::Set(0.70710678f)), one = Vec::Set(1);
    const Vec t = Div(one, Fma(z, Vec::Set(0.5f), one));
    Vec sum = Vec::Set(0.17087277f);
    for (const float c : {-0.82215223f, 1.48851587f, -1.13520398f, 0.27886807f, -0.18628806f, 0.09678418f, 0.37409196f,
                          1.00002368f, -1.26551223f}) {
      sum = Fma(sum, t, Vec::Set(c));
    }
    const Vec tail = Mul(Mul(t, Exp(Sub(sum, Mul(z, z)))), Vec::Set(0.5f));
    return Sub(Max(x, Vec::Set(0)), Mul(Abs(x), tail));  // x (1 - tail) above 0, x tail below
  }
};

template <typename Act>
void GluKernel(const float* gate, const float* up, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += Vec::kLanes) {
    const Vec act = Act::Of(LoadSome(gate + i, count - i));
    StoreSome(up == nullptr ? act : Mul(act, LoadSome(up + i, count - i)), y + i, count - i);
  }
}

// cap tanh(x / cap), tanh(z) = 1 - 2 / (exp(2 z) + 1)
inline Vec SoftCap(const Vec& x, const Vec& cap) {
  const Vec one = Vec::Set(1), two = Vec::Set(2);
  return Mul(cap, Sub(one, Div(two, Add(Exp(Mul(two, Div(x, cap))), one))));
}

void SoftCapKernel(float* y, int64_t count, float scale, float cap) {
  for (int64_t i = 0; i < count; i += Vec::kLanes) {
    const Vec x = Mul(LoadSome(y + i, count - i), Vec::Set(scale));
    StoreSome(cap > 0 ? SoftCap(x, Vec::Set(cap)) : x, y + i, count - i);
  }
}

void StoreKernel(uint8_t dtype, const float* src, int count, void* dst) {
  const auto type = static_cast<DType>(dtype);
  for (int i = 0; i < count; i += Vec::kLanes) {
    const Vec v = LoadSome(src + i, count - i);
    if (type == DType::kF32) {
      StoreSome(v, static_cast<float*>(dst) + i, count - i);
      continue;
    }
    uint16_t half[Vec::kLanes];
    type == DType::kF16 ? v.StoreF16(half) : v.StoreBF16(half);
    for (int j = 0; j < Vec::kLanes && i + j < count; ++j) static_cast<uint16_t*>(dst)[i + j] = half[j];
  }
}

}  // namespace
}  // namespace shoal::ops::cpu
