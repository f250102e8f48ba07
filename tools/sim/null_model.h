// The model of simulated ranks: the next token is a hash of all token ids before it, read back from the KV cache, so
// that a wrong table, copy, order or replay changes the text. It does not depend on the layout. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "coordinator/core/core.h"

namespace shoal::sim {

inline constexpr int32_t kVocab = 96;
inline constexpr int32_t kGarbage = -7;  // in a KV slot that was never written, or by a step that did not end

uint64_t Fold(uint64_t hash, uint64_t x);

// The token at `position`, given the fold of all tokens before it. Every parameter changes it.
int32_t NextToken(uint64_t hash, const plan::SamplingParams& sampling, int32_t position, int32_t prompt_tokens);

// What tensor ranks of a stage hold alike after a step, as they tell it.
uint64_t StateChecksum(uint64_t step, int32_t stage);

// Options for a small model of that vocabulary which can be cut into 3 x 3.
core::CoreOptions TestOptions();

// Of a token, given the fold of all tokens before it.
plan::TokenLogprobs Logprobs(uint64_t hash, int32_t token, int32_t top);

// Everything after the prompt that a choice of a request gets when it is alone.
std::vector<int32_t> LoneRun(const core::GenerateRequest& request, core::FinishReason* reason, int32_t choice = 0);
// Those of its prompt's second token, third, ... and of what `choice` generates.
std::vector<plan::TokenLogprobs> LonePrompt(const core::GenerateRequest& request);
std::vector<plan::TokenLogprobs> LoneLogprobs(const core::GenerateRequest& request, int32_t choice);

}  // namespace shoal::sim
