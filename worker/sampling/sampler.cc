#include "worker/sampling/sampler.h"

#include "common/base/check.h"
#include "common/base/rng.h"

namespace shoal::sampling {

ops::SampleRow MakeRow(const plan::SamplingParams& params, int32_t position) {
  return {.temperature = params.temperature,
          .top_k = params.top_k,
          .top_p = params.top_p,
          .min_p = params.min_p,
          .uniform = SamplingUniform(params.seed, params.choice, static_cast<uint32_t>(position), 0)};
}

absl::Status Sample(const ops::OpTable& table, ops::Stream& stream, std::span<const float> logits, int vocab,
                    std::span<const ops::SampleRow> rows, std::span<int32_t> tokens) {
  SHOAL_CHECK(tokens.size() == rows.size() && logits.size() >= rows.size() * vocab);
  return table.sample(stream, {.logits = logits.data(),
                               .stride = vocab,
                               .params = rows.data(),
                               .tokens = tokens.data(),
                               .rows = static_cast<int>(rows.size()),
                               .vocab = vocab});
}

}  // namespace shoal::sampling
