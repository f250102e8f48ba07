// Tested by: tests/core/choices_test.cc
// The choices of one request: the first computes the prompt, the others start with its KV.
#include <algorithm>
#include <iterator>
#include <utility>

#include "common/base/check.h"
#include "coordinator/core/serving.h"

namespace shoal::core {

// Whole blocks in front of the prompt's last token. That one is computed again by each choice, for its first sample, so
// it lies in a block of its own.
int32_t Serving::PromptBlocks(const Request& r) const { return (r.prompt_tokens - 1) / limits_.block_size; }

const Sequence* Serving::Source(const Sequence& s) const {
  for (const Sequence& other : s.request->sequences) {
    if (&other != &s && other.running && other.started && other.computed >= s.request->prompt_tokens) return &other;
  }
  return nullptr;
}

bool Serving::AwaitsPrompt(const Sequence& s) const {
  if (!OneOfMany(s) || Source(s) != nullptr) return false;
  const std::vector<Sequence>& all = s.request->sequences;
  return std::any_of(all.begin(), all.end(), [&](const Sequence& other) {
    return &other != &s && !other.ended && (other.running || other.order < s.order);
  });
}

void Serving::TakePrompt(const Sequence& source, Sequence& s) {
  SHOAL_CHECK(s.blocks.empty());
  s.blocks.assign(source.blocks.begin(), source.blocks.begin() + PromptBlocks(*s.request));
  for (const int32_t block : s.blocks) group_->pool.Share(block);
  s.computed = std::min(s.request->prompt_tokens, s.length - 1);
}

void Serving::CopyPromptEnd(const Sequence& source, Sequence& s) {
  const auto shared = static_cast<size_t>(PromptBlocks(*s.request));
  const int32_t rest = s.computed - static_cast<int32_t>(shared) * limits_.block_size;
  if (rest > 0) group_->builder.Copy({source.blocks[shared], s.blocks[shared]});
}

// The first choice is the first to compute the prompt, and ends after it.
Scored Serving::ScoredRows(const Sequence& s) const {
  const Request& r = *s.request;
  if (r.sampling.prompt_logprobs < 0 || s.choice != 0 || r.prompt_scored >= r.prompt_tokens - 1) return {};
  // Behind the prompt's last token nothing is scored; it may have an output, that is the sample.
  const bool fresh = static_cast<int32_t>(s.tokens.size()) == r.prompt_tokens;
  return {r.prompt_scored, fresh ? r.prompt_tokens : r.prompt_tokens - 1};
}

void Serving::TakePromptLogprobs(Request& r, std::vector<plan::TokenLogprobs> logprobs, EffectList& fx) {
  r.prompt_scored += static_cast<int32_t>(logprobs.size());
  std::move(logprobs.begin(), logprobs.end(), std::back_inserter(r.prompt_logprobs));
  if (r.prompt_scored < r.prompt_tokens - 1) return;
  fx.client.push_back(EmitPromptLogprobs{r.id, std::exchange(r.prompt_logprobs, {})});
}

void Serving::FinishChoice(Sequence& s, FinishReason reason, TimeNs now, EffectList& fx) {
  Request& r = *s.request;
  const bool last = std::all_of(r.sequences.begin(), r.sequences.end(),
                                [&](const Sequence& other) { return &other == &s || other.ended; });
  if (last) return Finish(r, reason, absl::OkStatus(), 0, now, fx);
  TakeOff(s);
  s.ended = true;
  rate_.Finished(now);
  fx.client.push_back(core::FinishChoice{r.id, s.choice, reason});
}

void Serving::TakeOff(Sequence& s) {
  if (s.ended) return;
  if (s.running) {
    StopRunning(s);
  } else {
    waiting_.erase(s.order);
    s.blocks.clear();  // without a group they are kept, and nobody's
    s.kv = 0;
  }
  Forget(s);
}

}  // namespace shoal::core
