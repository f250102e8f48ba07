// What goes into the next plan: a pure function of a snapshot. Continuous batching, first come first served: decode
// rows first, then prefill chunks of sequences that have begun, then new sequences, within the token budget. When
// blocks run out, the sequence that arrived last gives its own back and starts again later (preemption by recompute).
#pragma once

#include <cstdint>
#include <vector>

namespace shoal::core {

// A sequence is in at most so many plans that have not been answered.
inline constexpr int32_t kMaxUnanswered = 2;

// Prompt rows at positions [from, to) give an output for each of their tokens. None of them lies across `from` or `to`,
// and all outputs of a plan are at most `max_sequences`.
struct Scored {
  int32_t from = 0, to = 0;
};

struct RunningView {
  int32_t cohort = 0;
  int32_t unanswered = 0;    // plans with a row of it
  int32_t start_tokens = 0;  // tokens it started with: its prefill
  int32_t computed = 0;      // tokens whose KV is in the cache once all sent plans have run
  int32_t blocks = 0;        // in its table
  bool wants_more = false;   // fewer tokens are promised than it may generate
  Scored scored{};
  // So many of its blocks are in the tables of all others that name the same `prompt`. They are free when the last of
  // those gives way.
  int32_t shared = 0;
  int32_t prompt = -1;
};

struct WaitingView {
  int32_t tokens = 0;    // that it will start with
  bool settled = true;   // no plan of a former run is unanswered: its tokens are final
  int32_t computed = 0;  // of them, whose KV is there already
  int32_t shared = 0;    // blocks that it does not need: it holds those of another one
  Scored scored{};
};

struct SchedulerView {
  int32_t cohort = 0;   // the plan is for this one
  int32_t cohorts = 1;  // one per stage
  int32_t block_size = 16;
  int32_t blocks_free = 0;
  int32_t max_tokens = 0;     // of one plan
  int32_t max_sequences = 0;  // running at once
  int32_t waiting_total = 0;
  std::vector<RunningView> running;  // by arrival
  std::vector<WaitingView> waiting;  // by arrival; at least the first of them, if there is one
};

struct Decision {
  struct Row {
    int32_t index;       // into running
    int32_t count;       // tokens
    int32_t new_blocks;  // its table grows by
  };
  struct Admission {  // of the first, second, ... waiting sequence
    int32_t count;    // tokens of its first row
    int32_t blocks;   // new ones: its table is for all of its tokens, so that a begun prefill never waits for blocks
  };
  std::vector<int32_t> preempt;  // indices into running; none of them has a row
  std::vector<Row> rows;
  std::vector<Admission> admit;
};

// Same view, same decision. Each sequence alone fits the cache up to its last token: admission and sizing see to it.
Decision Decide(const SchedulerView& view);

// Whether a sequence should change to another cohort, so that all stages stay busy when one cohort has run dry.
struct CohortMove {
  int32_t index = -1;  // into running; -1: none
  int32_t to = 0;
};
CohortMove Balance(const SchedulerView& view);

}  // namespace shoal::core
