// What mask, biases and penalties make of a logit (kernels/ops/sample.h), and how the kernel reads a row's logits: as
// they came, or changed, where they are changed anew at each reading.
#pragma once

#include "kernels/cuda/sample.h"
#include "kernels/ops/token_counts.h"

namespace shoal::cuda::sample {

inline constexpr float kInfinity = __builtin_bit_cast(float, 0x7f800000u);

struct Penalties {
  float repetition, presence, frequency;
};
SHOAL_HD inline float Penalised(float logit, uint32_t count, const Penalties& p) {
  if (count == 0) return logit;
  logit = logit > 0 ? logit / p.repetition : logit * p.repetition;
  const uint32_t generated = count & ops::kMostGenerated;
  if (generated == 0) return logit;
  return logit - p.frequency * static_cast<float>(generated) - p.presence;
}
SHOAL_HD inline float Forbidden(float logit) {
  return logit < kInfinity ? -kInfinity : logit;  // NaN and +Inf show also here
}

// A row's biases, by ascending id.
struct Biases {
  const ops::SampleBias* list;
  int count;  // 0: none
  // The first of them at `id` or behind it.
  SHOAL_HD int LowerBound(int id) const {
    int begin = 0, end = count;
    while (begin < end) {
      const int middle = (begin + end) / 2;
      if (list[middle].id < id) {
        begin = middle + 1;
      } else {
        end = middle;
      }
    }
    return begin;
  }
};

// As they came.
struct Plain {
  const float* logits;
  int vocab;
  // Of four neighbours; the first id is a multiple of 4.
  struct Four {
    float4 logits;
  };
  __device__ Four Load(int id) const { return {*reinterpret_cast<const float4*>(logits + id)}; }
  __device__ float4 Values(const Four& four) const { return four.logits; }
  __device__ float At(int id) const { return logits[id]; }
};

struct Changed {
  const float* logits;
  int vocab;
  const uint16_t* counts;  // of its place; null: no penalties
  const uint32_t* mask;    // null: all are allowed
  Biases biases;
  Penalties penalties;
  struct Four {
    float4 logits;
    uint2 counts;
    uint32_t allowed;  // the low four bits
    int id;            // the first
  };
  __device__ Four Load(int id) const {
    return {*reinterpret_cast<const float4*>(logits + id),
            counts == nullptr ? uint2{0, 0} : *reinterpret_cast<const uint2*>(counts + id),
            mask == nullptr ? 0xfu : mask[id / 32] >> id % 32, id};
  }
  __device__ float Value(float logit, uint32_t count, bool allowed, float bias) const {
    return Penalised((allowed ? logit : Forbidden(logit)) + bias, count, penalties);
  }
  // 0 where there is none: adding it changes no logit, but that -0 becomes 0, which is its equal.
  __device__ float4 BiasesOf(int id) const {
    float4 bias = {0, 0, 0, 0};
    for (int i = biases.LowerBound(id); i < biases.count && biases.list[i].id < id + 4; ++i) {
      const int at = biases.list[i].id - id;
      const float value = biases.list[i].bias;
      if (at == 0) bias.x = value;
      if (at == 1) bias.y = value;
      if (at == 2) bias.z = value;
      if (at == 3) bias.w = value;
    }
    return bias;
  }
  __device__ float4 Values(const Four& f) const {
    const float4 bias = BiasesOf(f.id);
    return {Value(f.logits.x, f.counts.x & 0xffff, (f.allowed & 1) != 0, bias.x),
            Value(f.logits.y, f.counts.x >> 16, (f.allowed & 2) != 0, bias.y),
            Value(f.logits.z, f.counts.y & 0xffff, (f.allowed & 4) != 0, bias.z),
            Value(f.logits.w, f.counts.y >> 16, (f.allowed & 8) != 0, bias.w)};
  }
  __device__ float At(int id) const {
    const int i = biases.LowerBound(id);
    return Value(logits[id], counts == nullptr ? 0 : counts[id], mask == nullptr || (mask[id / 32] >> id % 32 & 1) != 0,
                 i < biases.count && biases.list[i].id == id ? biases.list[i].bias : 0.0f);
  }
};

}  // namespace shoal::cuda::sample
