// One micro-batch as the coordinator decided it, and what the ranks answer. A plan is a delta against state that every
// rank mirrors (plan_check.h). Plain data; wire.h turns it into bytes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/clock.h"

namespace shoal::plan {

using SequenceId = uint64_t;  // made by the coordinator, never reused within an incarnation

// Every message and ring record carries one. Receivers keep the highest epoch they saw and drop lower ones.
struct Stamp {
  uint64_t epoch = 0;        // of the group: raised whenever its ranks or their communicators change
  uint64_t incarnation = 0;  // of the coordinator process
  uint64_t step = 0;         // of the plan, from 1, consecutive within (epoch, incarnation)
  bool operator==(const Stamp&) const = default;
};

// One id whose logit is shifted.
struct TokenBias {
  int32_t token = 0;
  float bias = 0;
  bool operator==(const TokenBias&) const = default;
};

inline constexpr int32_t kMaxTopLogprobs = 20;   // beside each token
inline constexpr size_t kMaxTokenBiases = 1024;  // of one sequence
inline constexpr size_t kMaxEndTokens = 1024;
inline constexpr size_t kMaxAllowedTokens = 16384;
inline constexpr size_t kMaxBadWords = 256;
inline constexpr size_t kMaxBadWordTokens = 16;  // of one word

// The sampling state is a pure function of these and of the tokens. What they do to logits is in the order of
// kernels/ops/sample.h. Fields below the line come with later features: plan_check refuses them when they are not at
// their defaults.
struct SamplingParams {
  float temperature = 0;  // 0: greedy
  int32_t top_k = 0;      // 0: all
  float top_p = 1;
  float min_p = 0;
  uint64_t seed = 0;
  uint32_t choice = 0;  // which of the request's n sequences
  float repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  int32_t min_tokens = 0;                            // generated ones, before which none of end_tokens may come
  std::vector<int32_t> end_tokens = {};              // ascending; read when min_tokens is not 0
  std::vector<TokenBias> biases = {};                // by ascending token
  std::vector<int32_t> allowed_tokens = {};          // ascending; empty: all
  std::vector<std::vector<int32_t>> bad_words = {};  // the last token of each may not follow those before it
  int32_t logprobs = -1;         // how many top ones go along with each sampled token; -1: none, nor its own
  int32_t prompt_logprobs = -1;  // the same of rows whose output is kLogprobs or kBoth
  // --
  uint64_t grammar = 0;  // id of a compiled grammar; 0: none
};

// A sequence that begins, with everything that is needed to rebuild it anywhere.
struct SequenceStart {
  SequenceId id = 0;
  std::vector<int32_t> tokens;  // prompt, then what was generated before (after a preemption or a recovery)
  int32_t prompt_tokens = 0;
  SamplingParams sampling;
  std::vector<int32_t> blocks;  // its block table
  int32_t kv_tokens = 0;        // leading tokens whose KV is already in those blocks
};

struct BlocksAdded {
  SequenceId id = 0;
  std::vector<int32_t> blocks;  // appended to its table
};

// A whole block copied before the step (copy-on-write); KV group 0 is the only one so far.
struct BlockCopy {
  int32_t src = 0, dst = 0;
};

enum class TokenSource : uint8_t { kLiteral, kLastSample, kDrafts, kEmbeddings };  // the last two come later
// kLogprobs: of the known tokens behind each of the row's own, for prompts. kBoth: that, and a sample at the end.
enum class RowOutput : uint8_t { kNone, kSample, kLogprobs, kPooled, kBoth };  // kPooled comes later

// `count` tokens of one sequence, at positions [position, position + count).
// kLiteral: the sequence's own known tokens at those positions. kLastSample: the token sampled last, count 1.
struct Row {
  SequenceId id = 0;
  TokenSource source = TokenSource::kLiteral;
  int32_t position = 0;
  int32_t count = 0;  // an upper bound when drafts come
  RowOutput output = RowOutput::kNone;
  int32_t adapter = 0;  // 0: the base model
};
constexpr bool Samples(RowOutput output) { return output == RowOutput::kSample || output == RowOutput::kBoth; }
constexpr bool TellsLogprobs(RowOutput output) { return output == RowOutput::kLogprobs || output == RowOutput::kBoth; }

struct StepPlan {
  Stamp stamp;
  std::vector<SequenceId> ends;  // applied first: their blocks may be used again in this very plan
  std::vector<SequenceStart> starts;
  std::vector<BlocksAdded> blocks_added;
  std::vector<BlockCopy> copies;
  std::vector<Row> rows;
  int32_t cohort = 0;     // which decode cohort: shown in traces only
  bool checksum = false;  // every rank answers with a checksum of its hidden states
  // Not 0: a rank on an accelerator launches the step as a graph, recorded for so many rows, of which those behind the
  // plan's own are padding. Each row is then one token that samples, and no checksum is asked for. GraphBucket() has
  // the sizes. Other ranks make nothing of it.
  int32_t bucket = 0;
  uint64_t mirror_digest = 0;  // PlanMirror::digest() after this plan

  int32_t TokenCount() const;
  int32_t SampleCount() const;
};

// How many rows of logits that takes: one for a sample, one for each of a row's tokens whose next one is told about.
// Of a plan at most MirrorLimits::max_sequences.
int32_t OutputCount(const Row& row);
int32_t OutputCount(const StepPlan& plan);

// The smallest size of a recorded step that holds `rows` rows (at least 1); 0: none of at most `most` does. Steps of
// about a quarter: padding costs little, and few graphs are recorded.
int32_t GraphBucket(int32_t rows, int32_t most);
// Recording takes time and memory, and larger steps gain little by it.
inline constexpr int32_t kLargestBucket = 512;

// Of the logits as they came, before biases, penalties, masks and temperature.
struct TokenLogprobs {
  int32_t token = 0;
  float logprob = 0;
  int32_t rank = 0;              // 1: the most likely one
  std::vector<int32_t> top_ids;  // by falling logit; so many as were asked for and exist
  std::vector<float> top_logprobs;
  bool operator==(const TokenLogprobs&) const = default;
};

// What happened to one row whose output is not kNone, in plan order. With an error there is nothing else.
enum class RowError : uint8_t { kNone, kNotFinite };  // kNotFinite: NaN, +Inf or nothing finite in its logits
struct RowResult {
  SequenceId id = 0;
  std::vector<int32_t> tokens;  // 0..k
  RowError error = RowError::kNone;
  std::vector<TokenLogprobs> logprobs =
      {};  // those of a row's known tokens, in order, then those of `tokens`; or empty
};

// Times of one rank for one step, CLOCK_MONOTONIC of its host.
struct StepTimes {
  TimeNs received = 0;  // the plan was in the rank's ring
  TimeNs started = 0, ended = 0;
  DurationNs waited = 0;    // of that: on other ranks
  DurationNs sampling = 0;  // of that: what one rank does for its whole stage

  // What it took to do what every tensor rank of its stage does.
  DurationNs Own() const { return ended - started - waited - sampling; }
};

// From the sampling rank. Every other rank answers with empty rows.
struct StepResult {
  Stamp stamp;
  int32_t rank = 0;
  std::vector<RowResult> rows;
  StepTimes times;
  uint64_t checksum =
      0;              // of the hidden states that all tensor ranks of a stage hold alike; 0: the plan asked for none
  std::string error;  // the plan was refused or failed on this rank; nothing of it counts
};

}  // namespace shoal::plan
