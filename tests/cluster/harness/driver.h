// A small scheduler for tests: runs a fixed set of requests through engines, planning ahead as the coordinator does.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/plan/step_plan.h"
#include "tests/cluster/harness/engines.h"

namespace shoal::testing {

struct TestRequest {
  std::vector<int32_t> prompt;
  int new_tokens = 0;                   // exactly; nothing stops earlier
  plan::SamplingParams sampling;        // prompt_logprobs: rows ask for them wherever they are literal
  std::vector<int32_t> generated = {};  // before: what it starts with behind the prompt; not of new_tokens
};

struct DriverOptions {
  int chunk = 32;          // prompt tokens of one sequence per plan
  int cohorts = 1;         // request i is in cohort i % cohorts; a plan holds rows of one cohort
  int ahead = 2;           // unanswered plans per cohort
  int checksum_every = 0;  // plans from one that asks for checksums to the next; 0: none
  bool graphs = false;     // plans name a bucket where they may
};

struct DriverResult {
  std::vector<std::vector<int32_t>> tokens;                // per request
  std::vector<std::vector<plan::TokenLogprobs>> logprobs;  // per request: as they came, those of known tokens first
  std::vector<plan::RowError> errors;                      // per request: the last row's
  int plans = 0, bucketed = 0;
};

// All requests start at once.
absl::StatusOr<DriverResult> RunRequests(Engines& engines, const plan::MirrorLimits& limits,
                                         const std::vector<TestRequest>& requests, const DriverOptions& options);

// Makes the engines of `ranks`, runs the requests and stops the engines; any rank's error is the result.
absl::StatusOr<DriverResult> RunAlone(RankSet& ranks, const std::vector<TestRequest>& requests,
                                      const DriverOptions& options);

}  // namespace shoal::testing
