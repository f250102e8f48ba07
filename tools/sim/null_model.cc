// Tested by: tests/sim/cluster_test.cc
#include "tools/sim/null_model.h"

#include <algorithm>
#include <bit>

namespace shoal::sim {

uint64_t Fold(uint64_t hash, uint64_t x) {
  hash = (hash ^ x) * 0x100000001b3;
  return hash ^ (hash >> 29);
}

int32_t NextToken(uint64_t hash, const plan::SamplingParams& sampling, int32_t position, int32_t prompt_tokens) {
  if (sampling.temperature > 0) {
    hash = Fold(Fold(Fold(hash, sampling.seed), sampling.choice), static_cast<uint64_t>(position));
  }
  for (const float penalty : {sampling.repetition_penalty - 1, sampling.presence_penalty, sampling.frequency_penalty}) {
    if (penalty != 0) hash = Fold(hash, std::bit_cast<uint32_t>(penalty));
  }
  for (const plan::TokenBias& b : sampling.biases) {
    hash = Fold(Fold(hash, static_cast<uint64_t>(b.token)), std::bit_cast<uint32_t>(b.bias));
  }
  for (const std::vector<int32_t>& word : sampling.bad_words) {
    for (const int32_t token : word) hash = Fold(hash, static_cast<uint64_t>(token));
  }
  const uint64_t draw = Fold(hash, 1);
  const std::vector<int32_t>& allowed = sampling.allowed_tokens;
  auto token = allowed.empty() ? static_cast<int32_t>(draw % kVocab) : allowed[draw % allowed.size()];
  if (position - prompt_tokens >= sampling.min_tokens) return token;
  const std::vector<int32_t>& ends = sampling.end_tokens;
  while (std::find(ends.begin(), ends.end(), token) != ends.end()) token = (token + 1) % kVocab;
  return token;
}

plan::TokenLogprobs Logprobs(uint64_t hash, int32_t token, int32_t top) {
  const auto of = [hash](int32_t id) { return -static_cast<float>(Fold(hash, 1000 + id) % 1024) / 64; };
  plan::TokenLogprobs out{token, of(token), 1 + static_cast<int32_t>(Fold(hash, 2) % kVocab), {}, {}};
  for (int32_t i = 0; i < top; ++i) {
    out.top_ids.push_back(static_cast<int32_t>((Fold(hash, 3) + static_cast<uint64_t>(i)) % kVocab));
    out.top_logprobs.push_back(of(out.top_ids.back()));
  }
  return out;
}

uint64_t StateChecksum(uint64_t step, int32_t stage) {
  return Fold(step, static_cast<uint64_t>(stage) + 1) | 2;  // 0 would be none
}

core::CoreOptions TestOptions() {
  core::CoreOptions o;
  o.model_path = "model";
  o.revision = "r1";
  o.build_id = "b1";
  o.model.layers = 6;
  o.model.hidden = 96;
  o.model.heads = 6;
  o.model.kv_heads = 3;
  o.model.head_dim = 32;
  o.model.ffn = 192;
  o.model.vocab = kVocab;
  o.model.max_position = 256;
  o.model.rope.dim = 32;
  o.model.attention_scale = 0.125f;
  o.engine.block_size = 4;
  o.max_num_seqs = 64;
  o.max_num_batched_tokens = 128;
  o.incarnation = 77;
  o.canary_interval = 0;  // tests of the canary turn it on
  return o;
}

std::vector<int32_t> LoneRun(const core::GenerateRequest& request, core::FinishReason* reason, int32_t choice) {
  std::vector<int32_t> out;
  uint64_t hash = 0;
  for (int32_t token : request.prompt) hash = Fold(hash, static_cast<uint64_t>(token));
  const auto prompt = static_cast<int32_t>(request.prompt.size());
  int32_t position = prompt;
  plan::SamplingParams sampling = request.sampling;
  sampling.choice = static_cast<uint32_t>(choice);
  *reason = core::FinishReason::kLength;
  while (static_cast<int32_t>(out.size()) < request.max_tokens) {
    const int32_t token = NextToken(hash, sampling, position++, prompt);
    if (std::find(request.stop_tokens.begin(), request.stop_tokens.end(), token) != request.stop_tokens.end()) {
      *reason = core::FinishReason::kStop;
      break;
    }
    out.push_back(token);
    hash = Fold(hash, static_cast<uint64_t>(token));
  }
  return out;
}

std::vector<plan::TokenLogprobs> LonePrompt(const core::GenerateRequest& request) {
  std::vector<plan::TokenLogprobs> out;
  if (request.sampling.prompt_logprobs < 0) return out;
  uint64_t hash = 0;
  for (size_t i = 0; i < request.prompt.size(); ++i) {
    if (i > 0) out.push_back(Logprobs(hash, request.prompt[i], request.sampling.prompt_logprobs));
    hash = Fold(hash, static_cast<uint64_t>(request.prompt[i]));
  }
  return out;
}

std::vector<plan::TokenLogprobs> LoneLogprobs(const core::GenerateRequest& request, int32_t choice) {
  std::vector<plan::TokenLogprobs> out;
  if (request.sampling.logprobs < 0) return out;
  uint64_t hash = 0;
  for (const int32_t token : request.prompt) hash = Fold(hash, static_cast<uint64_t>(token));
  core::FinishReason reason;
  for (const int32_t token : LoneRun(request, &reason, choice)) {
    out.push_back(Logprobs(hash, token, request.sampling.logprobs));
    hash = Fold(hash, static_cast<uint64_t>(token));
  }
  return out;
}

}  // namespace shoal::sim
