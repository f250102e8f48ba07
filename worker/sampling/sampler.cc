#include "worker/sampling/sampler.h"

#include "common/base/check.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"

namespace shoal::sampling {

ops::SampleRow MakeRow(const plan::SamplingParams& params, int32_t position) {
  return {.temperature = params.temperature,
          .top_k = params.top_k,
          .top_p = params.top_p,
          .min_p = params.min_p,
          .uniform = SamplingUniform(params.seed, params.choice, static_cast<uint32_t>(position), 0)};
}

absl::StatusOr<Sampler> Sampler::Create(device::Device* device, int max_rows) {
  Sampler sampler(device);
  SHOAL_ASSIGN_OR_RETURN(sampler.tokens_, device->Allocate(static_cast<size_t>(max_rows) * sizeof(int32_t)));
  return sampler;
}

absl::StatusOr<std::span<const int32_t>> Sampler::Sample(std::span<const float> logits, int vocab,
                                                         const ops::SampleRow* rows, int count) {
  const auto size = static_cast<size_t>(count);
  SHOAL_CHECK(size * sizeof(int32_t) <= tokens_.size() && logits.size() >= size * static_cast<size_t>(vocab));
  SHOAL_RETURN_IF_ERROR(device_->table().sample(device_->stream(), {.logits = logits.data(),
                                                                    .stride = vocab,
                                                                    .params = rows,
                                                                    .tokens = tokens_.as<int32_t>(),
                                                                    .rows = count,
                                                                    .vocab = vocab}));
  return std::span<const int32_t>(tokens_.as<const int32_t>(), size);
}

}  // namespace shoal::sampling
