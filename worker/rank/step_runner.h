// Everything that one plan enqueues on a rank's device, in order:
//   stage 0: sources of the tokens; others: receive -> block copies -> [embed] layers -> last stage: logits, sample,
//   post, fetch; others: send
// A plan with a bucket has what lies between its tokens and its logits launched as a graph, recorded the first time the
// bucket is seen. What its rows want of a sample differs from step to step and is enqueued behind it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/rank/engine.h"
#include "worker/rank/operation.h"
#include "worker/rank/places.h"
#include "worker/rank/step_batch.h"
#include "worker/rank/token_feed.h"
#include "worker/sampling/sampler.h"

namespace shoal::rank {

// What is left to do once the mark is reached.
struct EnqueuedStep {
  uint64_t mark = 0;
  std::vector<OutputRow> rows;      // in plan order; empty but on the sampling rank
  std::span<const int32_t> tokens;  // of samples, in host memory, from the mark until `steps` more have been enqueued
  std::vector<int32_t> known;       // tokens, of the rows of logits behind the samples
  // Of rows of logits from `logprobs_first` on, there likewise; `tops`: of all, as ops::SampleRow::logprobs.
  std::span<const ops::SampleLogprobs> logprobs;
  int32_t logprobs_first = 0;
  std::vector<int32_t> tops;       // empty: no row wants any
  std::span<const uint64_t> sums;  // Decoder::sums(), there likewise; empty: the plan asked for none
  DurationNs sampling = 0;         // on a host: what it took
  bool decodes = false;            // a row continues from a sample
};

class StepRunner {
 public:
  // `parts` outlives this. `steps`: how many may be enqueued and not looked at.
  static absl::StatusOr<std::unique_ptr<StepRunner>> Create(EngineParts* parts, int steps);

  // `mirror` has applied the plan. `record_more` is called while the sampling lacks tokens of the steps before, with
  // everything up to the logits enqueued: it waits until some are in the mirror (PlanMirror::RecordSample).
  absl::Status Enqueue(const plan::StepPlan& plan, const plan::PlanMirror& mirror,
                       const std::function<absl::Status()>& record_more, EnqueuedStep* step);
  // Steps are recorded anew from now on. A transport that was recorded can be ended only then.
  void ForgetGraphs() { graphs_.clear(); }

 private:
  // What is launched for a bucket, and where its logits are then.
  struct Graph {
    std::unique_ptr<ops::AcceleratorGraph> launch;
    std::span<const float> logits;
    graph::OperationSet operations;  // that were recorded
    bool warm = false;               // enqueued once without a recording, where ops want that (OpTable::warms_up)
  };

  StepRunner(EngineParts* parts, std::unique_ptr<Places> places, TokenFeed feed,
             std::optional<sampling::Sampler> sampler, device::Memory fetched, int steps);

  absl::Status BeginBatch(const plan::StepPlan& plan, const plan::PlanMirror& mirror);
  absl::Status Copy();
  absl::Status Middle();
  absl::Status LaunchMiddle(int bucket);
  absl::Status Sample(const std::function<absl::Status()>& record_more, EnqueuedStep* step);
  absl::Status FetchLogprobs(const ops::SampleLogprobs* logprobs, EnqueuedStep* step);
  absl::Status Deliver(uint64_t number, EnqueuedStep* step);
  absl::Status FetchSums(EnqueuedStep* step);
  void Begin(Operation op) { p_.operations->Begin(op); }

  EngineParts& p_;
  const std::unique_ptr<Places> places_;
  StepBatch batch_;
  TokenFeed feed_;                            // used on stage 0 only
  std::optional<sampling::Sampler> sampler_;  // of the sampling rank
  device::UploadBuffer pairs_;
  std::vector<int32_t> sources_;
  std::span<const float> logits_;    // of the present plan, on the last stage's device
  std::span<const int32_t> tokens_;  // sampled by them, on the sampling rank's device
  std::map<int, Graph> graphs_;      // by bucket

  // Host memory where one step after the other is fetched to: sums, then tokens, then log-probabilities.
  device::Memory fetched_;
  const int steps_;
  int next_fetch_ = 0;
};

}  // namespace shoal::rank
