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

void SiluKernel(const float* gate, const float* up, float* y, int64_t count) {
  const Vec one = Vec::Set(1);
  for (int64_t i = 0; i < count; i += Vec::kLanes) {
    const Vec g = LoadSome(gate + i, count - i);
    const Vec silu = Div(g, Add(one, Exp(Sub(Vec::Set(0), g))));
    StoreSome(Mul(silu, LoadSome(up + i, count - i)), y + i, count - i);
  }
}

// 0.5 (1 + tanh(z)) = 1 / (1 + exp(-2 z)),   z = sqrt(2 / pi) (x + 0.044715 x^3)
void GeluTanhKernel(const float* gate, const float* up, float* y, int64_t count) {
  const Vec one = Vec::Set(1), c1 = Vec::Set(-2 * 0.7978845608f), c3 = Vec::Set(0.044715f);
  for (int64_t i = 0; i < count; i += Vec::kLanes) {
    const Vec g = LoadSome(gate + i, count - i);
    const Vec z = Mul(c1, Fma(Mul(Mul(g, g), g), c3, g));
    StoreSome(Mul(Div(g, Add(one, Exp(z))), LoadSome(up + i, count - i)), y + i, count - i);
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
