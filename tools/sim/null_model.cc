// Tested by: tests/sim/cluster_test.cc
#include "tools/sim/null_model.h"

#include <algorithm>

namespace shoal::sim {

uint64_t Fold(uint64_t hash, uint64_t x) {
  hash = (hash ^ x) * 0x100000001b3;
  return hash ^ (hash >> 29);
}

int32_t NextToken(uint64_t hash, const plan::SamplingParams& sampling, int32_t position) {
  if (sampling.temperature > 0) hash = Fold(Fold(hash, sampling.seed), static_cast<uint64_t>(position));
  return static_cast<int32_t>(Fold(hash, 1) % kVocab);
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

std::vector<int32_t> LoneRun(const core::GenerateRequest& request, core::FinishReason* reason) {
  std::vector<int32_t> out;
  uint64_t hash = 0;
  for (int32_t token : request.prompt) hash = Fold(hash, static_cast<uint64_t>(token));
  int32_t position = static_cast<int32_t>(request.prompt.size());
  *reason = core::FinishReason::kLength;
  while (static_cast<int32_t>(out.size()) < request.max_tokens) {
    const int32_t token = NextToken(hash, request.sampling, position++);
    if (std::find(request.stop_tokens.begin(), request.stop_tokens.end(), token) != request.stop_tokens.end()) {
      *reason = core::FinishReason::kStop;
      break;
    }
    out.push_back(token);
    hash = Fold(hash, static_cast<uint64_t>(token));
  }
  return out;
}

}  // namespace shoal::sim
