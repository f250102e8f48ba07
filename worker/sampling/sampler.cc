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

absl::Status Sampler::Sample(std::span<const float> logits, int vocab, std::span<const ops::SampleRow> rows,
                             std::span<int32_t> tokens) {
  SHOAL_CHECK(tokens.size() == rows.size() && logits.size() >= rows.size() * vocab);
  if (tokens.size_bytes() > tokens_.size()) {
    SHOAL_ASSIGN_OR_RETURN(tokens_, device_->Allocate(2 * tokens.size_bytes()));
  }
  SHOAL_ASSIGN_OR_RETURN(const ops::SampleRow* const params, rows_.Put(rows));
  auto* const sampled = reinterpret_cast<int32_t*>(tokens_.data());
  SHOAL_RETURN_IF_ERROR(device_->table().sample(device_->stream(), {.logits = logits.data(),
                                                                    .stride = vocab,
                                                                    .params = params,
                                                                    .tokens = sampled,
                                                                    .rows = static_cast<int>(rows.size()),
                                                                    .vocab = vocab}));
  return device_->Download(tokens.data(), sampled, tokens.size_bytes());
}

}  // namespace shoal::sampling
