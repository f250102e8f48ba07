// What mask and penalties make of a logit (kernels/ops/sample.h), and how the kernel reads a row's logits: as they
// came, or changed, where they are changed anew at each reading.
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
  Penalties penalties;
  struct Four {
    float4 logits;
    uint2 counts;
    uint32_t allowed;  // the low four bits
  };
  __device__ Four Load(int id) const {
    return {*reinterpret_cast<const float4*>(logits + id),
            counts == nullptr ? uint2{0, 0} : *reinterpret_cast<const uint2*>(counts + id),
            mask == nullptr ? 0xfu : mask[id / 32] >> id % 32};
  }
  __device__ float Value(float logit, uint32_t count, bool allowed) const {
    return Penalised(allowed ? logit : Forbidden(logit), count, penalties);
  }
  __device__ float4 Values(const Four& f) const {
    return {Value(f.logits.x, f.counts.x & 0xffff, (f.allowed & 1) != 0),
            Value(f.logits.y, f.counts.x >> 16, (f.allowed & 2) != 0),
            Value(f.logits.z, f.counts.y & 0xffff, (f.allowed & 4) != 0),
            Value(f.logits.w, f.counts.y >> 16, (f.allowed & 8) != 0)};
  }
  __device__ float At(int id) const {
    return Value(logits[id], counts == nullptr ? 0 : counts[id],
                 mask == nullptr || (mask[id / 32] >> id % 32 & 1) != 0);
  }
};

}  // namespace shoal::cuda::sample
