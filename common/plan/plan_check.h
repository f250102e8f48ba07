// The state that coordinator and ranks mirror, and the one check that both run on every plan. Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "common/plan/step_plan.h"

namespace shoal::plan {

// 2^24 blocks of 16 tokens are 268 million tokens: more than any cache, small enough for our own tables.
inline constexpr int32_t kMaxBlocks = 1 << 24;

// KV blocks of `block_size` tokens that `tokens` tokens need.
inline int32_t BlocksFor(int64_t tokens, int32_t block_size) {
  return static_cast<int32_t>((tokens + block_size - 1) / block_size);
}

struct MirrorLimits {
  int32_t blocks = 0;         // KV blocks of the group
  int32_t block_size = 0;     // tokens
  int32_t max_sequences = 0;  // running at once
  int32_t max_tokens = 0;     // rows' tokens in one plan
  int32_t max_model_len = 0;
  int32_t vocab = 0;
  bool operator==(const MirrorLimits&) const = default;
};

// InvalidArgument names the limit that is absurd. Whoever gets limits from another process asks first: PlanMirror takes
// them as good.
absl::Status CheckLimits(const MirrorLimits& limits);

// InvalidArgument names the parameter that is out of its range, or whose feature does not exist yet.
absl::Status CheckSampling(const SamplingParams& sampling);
// The same, and InvalidArgument also names the parameter with an id that is not in [0, vocab).
absl::Status CheckSampling(const SamplingParams& sampling, int32_t vocab);

struct MirroredSequence {
  std::vector<int32_t> tokens;  // known ids: from the start, plus those that RecordSample added
  int32_t start_tokens = 0;     // of them, from the start: what literal rows may read, on the ranks and here alike
  int32_t prompt_tokens = 0;
  int32_t length = 0;    // known or promised tokens: grows by one with every row that samples
  int32_t computed = 0;  // tokens whose KV is (or by this plan will be) in the cache
  std::vector<int32_t> blocks;
  SamplingParams sampling;
  uint64_t last_sample_step = 0;  // plan that sampled (or will sample) its newest token; 0: none since its start
};

// What every plan must keep, besides sizes within the limits and ids within their ranges:
//   steps are consecutive; a plan has rows; fields of later features are at their defaults
//   an id ends once, starts once and has at most one row per plan; what ends in a plan is not used in it again
//   blocks of a start's first kv_tokens may be in other tables already; every other block that a table gains is in none
//   a row begins where the KV ends (position == computed), its blocks cover it, and no other table holds those it
//   writes a literal row stays within the tokens of the start; a last-sample row is the one token behind them, sampled
//   earlier a row samples only at the end of its sequence
//   a row that tells log-probabilities is literal, of a sequence with prompt_logprobs, and the token behind each of its
//   own is in the start, but for the one that it samples; OutputCount is at most max_sequences
//   a bucket holds the plan's rows, each of which is one token that samples, and there is no checksum
// Invariants after every Apply: each sequence's blocks cover `computed`; computed <= length <= max_model_len.
class PlanMirror {
 public:
  explicit PlanMirror(const MirrorLimits& limits);

  // Checks the whole plan, then applies it. On error nothing has changed, and the message names the sequence and the
  // rule. Epoch and incarnation are checked by the caller; steps must be consecutive, from 1. check_digest: compare
  // mirror_digest (receivers); the sender passes false and then stores digest() in the plan.
  absl::Status Apply(const StepPlan& plan, bool check_digest);

  // The id sampled for a sequence, in order; keeps `tokens` whole on the coordinator, which alone decides what counts,
  // and on the sampling rank, whose masks may depend on them. Nothing happens when the sequence is gone.
  void RecordSample(SequenceId id, int32_t token);

  const MirroredSequence* Find(SequenceId id) const;
  size_t size() const { return sequences_.size(); }
  // How many tables hold the block.
  int32_t BlockRefs(int32_t block) const { return refs_[block]; }
  // Order-free hash over membership, lengths and block tables; costs only the sequences that a plan touched.
  uint64_t digest() const { return digest_; }
  const MirrorLimits& limits() const { return limits_; }

 private:
  // A sequence, and what one attempt at a plan must be able to take back.
  struct Entry : MirroredSequence {
    SequenceId id = 0;
    uint64_t table_hash = 0, hash = 0;
    uint64_t touched = 0, row = 0;        // last attempt that touched it, that had a row of it
    bool started = false, ended = false;  // by the present attempt
    struct {
      int32_t length, computed;
      size_t blocks;
      uint64_t last_sample_step, table_hash;
    } saved = {};
  };

  absl::Status Try(const StepPlan& plan, bool check_digest);
  absl::Status End(SequenceId id);
  absl::Status Start(const SequenceStart& start);
  absl::Status AddBlocks(const BlocksAdded& added);
  absl::Status CheckBucket(const StepPlan& plan) const;
  absl::Status CheckCopies(const std::vector<BlockCopy>& copies) const;
  absl::Status ApplyRow(const Row& row, uint64_t step);
  absl::Status CheckRow(const Row& row, const Entry& entry) const;
  absl::Status CheckOutput(const Row& row, const Entry& entry, int64_t end) const;
  absl::Status Gain(Entry& entry, int32_t block, bool may_share);
  Entry* Touch(SequenceId id);  // null: no such sequence
  void Ref(int32_t block, int32_t delta);
  void Commit();
  void Rollback(uint64_t digest);

  MirrorLimits limits_;
  absl::flat_hash_map<SequenceId, std::unique_ptr<Entry>> sequences_;
  std::vector<int32_t> refs_;     // [blocks] tables that hold it
  std::vector<uint64_t> gained_;  // [blocks] last attempt in which a table gained it
  std::vector<uint64_t> fresh_;   // [blocks] the same, without KV of before
  uint64_t digest_ = 0;
  uint64_t last_step_ = 0;

  uint64_t attempt_ = 0;
  int32_t ended_ = 0;
  std::vector<Entry*> touched_;
  std::vector<std::pair<int32_t, int32_t>> ref_changes_;  // block, delta
};

// The bucket that a plan may have: the smallest for its rows, or 0: a row of it is more than one token that samples,
// a checksum is asked for, or they are too many.
int32_t BucketOf(const StepPlan& plan, const MirrorLimits& limits);

}  // namespace shoal::plan
