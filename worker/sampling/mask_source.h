// Which ids may come next in one sequence. What a mask is follows from (parameters, tokens) alone; what a source keeps
// only saves it from making the same mask again. The host makes masks, beside the forward pass.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/plan/step_plan.h"

namespace shoal::sampling {

// One thread.
class MaskSource {
 public:
  virtual ~MaskSource() = default;

  // Whether the ids of tokens count, not only how many there are: then the sampling of a row waits for all those before
  // its own.
  virtual bool reads_tokens() const = 0;
  // The mask for the token at `position` (from 0, the prompt's first), as ops/sample.h has it: bits behind the
  // vocabulary do not matter. `tokens` [position]: all before it; not looked at unless reads_tokens(). `mask` is what
  // the last call left there. False: it is right as it is.
  virtual bool Update(int32_t position, std::span<const int32_t> tokens, std::span<uint32_t> mask) = 0;
};

// Of allowed_tokens, bad_words, and end_tokens with min_tokens. Null: the parameters allow all ids everywhere.
// `sampling` outlives it.
std::unique_ptr<MaskSource> MakeMaskSource(const plan::SamplingParams& sampling, int32_t prompt_tokens);

// Whether the source above makes a mask for that position: where it does not, all ids are allowed.
bool HasMask(const plan::SamplingParams& sampling, int32_t prompt_tokens, int32_t position);

}  // namespace shoal::sampling
