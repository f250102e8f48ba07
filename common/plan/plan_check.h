// The state that coordinator and ranks mirror, and the one check that both run on every plan. Not thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "common/plan/step_plan.h"

namespace shoal::plan {

struct MirrorLimits {
  int32_t blocks = 0;        // KV blocks of the group
  int32_t block_size = 0;    // tokens
  int32_t max_sequences = 0; // running at once
  int32_t max_tokens = 0;    // rows' tokens in one plan
  int32_t max_model_len = 0;
  int32_t vocab = 0;
};

struct MirroredSequence {
  std::vector<int32_t> tokens;  // known ids: from the start, plus those that RecordSample added
  int32_t prompt_tokens = 0;
  int32_t length = 0;           // known or promised tokens: grows by one with every row that samples
  int32_t computed = 0;         // tokens whose KV is (or by this plan will be) in the cache
  std::vector<int32_t> blocks;
  SamplingParams sampling;
  uint64_t last_sample_step = 0;  // plan that sampled (or will sample) its newest token
};

// Invariants after every Apply: each sequence's blocks cover `computed`; no block is in two tables unless both sides
// shared it at their start; computed <= length <= max_model_len.
class PlanMirror {
 public:
  explicit PlanMirror(const MirrorLimits& limits) : limits_(limits) {}

  // Checks the whole plan, then applies it. On error nothing has changed, and the message names the sequence and the rule.
  // Stamps are checked by the caller; steps must be consecutive.
  // check_digest: compare mirror_digest (receivers); the sender passes false and then stores digest() in the plan.
  absl::Status Apply(const StepPlan& plan, bool check_digest);

  // The id sampled for a sequence, in order; keeps `tokens` whole on the coordinator, which alone decides what counts.
  void RecordSample(SequenceId id, int32_t token);

  const MirroredSequence* Find(SequenceId id) const;
  size_t size() const { return sequences_.size(); }
  // Order-free hash over membership, lengths and block tables; costs only the sequences that a plan touched.
  uint64_t digest() const { return digest_; }
  const MirrorLimits& limits() const { return limits_; }

 private:
  MirrorLimits limits_;
  absl::flat_hash_map<SequenceId, MirroredSequence> sequences_;
  uint64_t digest_ = 0;
  uint64_t last_step_ = 0;
};

}  // namespace shoal::plan
