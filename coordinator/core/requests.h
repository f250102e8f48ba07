// Requests and their sequences while they live: records without behaviour. Serving owns and changes them.
#pragma once

#include <cstdint>
#include <vector>

#include "coordinator/core/quarantine.h"
#include "coordinator/core/request.h"

namespace shoal::core {

struct Request;

// One answer in the making. It waits, runs on the ranks, may be preempted and wait again.
struct Sequence {
  Request* request = nullptr;
  int32_t choice = 0;
  bool ended = false;           // it has all that it gets; others of its request go on
  uint64_t order = 0;           // of arrival; who goes first, and who gives way
  std::vector<int32_t> tokens;  // the prompt, then every accepted token: enough to start it anywhere
  bool running = false;         // on the ranks; else waiting
  int32_t kv = 0;               // leading tokens whose KV is in `blocks` on every rank, by answered plans
  int32_t kv_before = 0;        // the most that `kv` ever was: what is computed below it is computed again

  // On the ranks it has an id, new for every start; kept after a preemption until its last plan is answered.
  plan::SequenceId id = 0;
  int32_t unanswered = 0;  // plans with a row of it

  // While it runs, as every rank will have it once all sent plans have been executed.
  int32_t cohort = 0;
  int32_t start_tokens = 0;
  int32_t length = 0;    // known and promised tokens
  int32_t computed = 0;  // tokens whose KV is in the cache
  bool started = false;  // a plan of this group has started it
  // Its rows at positions [scored_from, scored_to) give log-probabilities of the prompt.
  int32_t scored_from = 0, scored_to = 0;
  // Kept without a group: the ranks may come back with what they had written. The first PromptBlocks() of them may be
  // in the tables of its siblings, too: either all of them, or none.
  std::vector<int32_t> blocks;
};

struct Request {
  RequestId id = 0;
  plan::SamplingParams sampling;
  int32_t prompt_tokens = 0, max_tokens = 0;
  std::vector<int32_t> stop_tokens;
  std::vector<Sequence> sequences;  // one for each choice; never resized, so that pointers into it stay good
  std::vector<plan::TokenLogprobs> prompt_logprobs;  // of the prompt's second token and on; empty once they are out
  int32_t prompt_scored = 0;                         // how many of these have come
  RequestStats stats;
  Suspicion suspicion;
};

}  // namespace shoal::core
