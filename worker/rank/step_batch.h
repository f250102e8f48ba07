// From a plan's rows to what the decoder and the sampler take. Pure layout: reads the plan and the mirror, decides
// nothing.
#pragma once

#include <span>
#include <vector>

#include "common/plan/plan_check.h"
#include "common/plan/step_plan.h"
#include "kernels/ops/copy_blocks.h"
#include "kernels/ops/sample.h"
#include "worker/graph/decoder.h"
#include "worker/rank/places.h"
#include "worker/sampling/sampler.h"

namespace shoal::rank {

// A plan's row with an output: which rows of logits are its own.
struct OutputRow {
  plan::SequenceId id = 0;
  int32_t sample = -1;                 // the one that it samples by; -1: it does not
  int32_t known_first = 0, known = 0;  // those of tokens that are known
};

// Reused from step to step: no allocation once it has seen its largest plan.
class StepBatch {
 public:
  // `mirror` and `places` have applied the plan. Block tables are views into the mirror: valid until it applies the
  // next plan.
  void Build(const plan::StepPlan& plan, const plan::PlanMirror& mirror, const Places& places);

  // Without the sources of its tokens.
  const graph::Batch& batch() const { return batch_; }
  // Rows of logits: those that are sampled by, in plan order, then those of known tokens.
  std::span<const sampling::Output> outputs() const { return outputs_; }
  int samples() const { return samples_; }  // of them
  // In plan order.
  const std::vector<OutputRow>& output_rows() const { return output_rows_; }
  const std::vector<ops::BlockPair>& copies() const { return copies_; }
  bool decodes() const { return decodes_; }  // at least one row continues from a sample

 private:
  void AddSamples(const plan::StepPlan& plan, const plan::PlanMirror& mirror);
  void AddKnown(const plan::StepPlan& plan, const plan::PlanMirror& mirror);

  graph::Batch batch_;
  std::vector<int32_t> positions_, sample_rows_;
  std::vector<int64_t> slots_;
  std::vector<ops::AttentionSequence> sequences_;
  std::vector<graph::SequencePlace> places_;
  std::vector<sampling::Output> outputs_;
  std::vector<OutputRow> output_rows_;
  int samples_ = 0;
  std::vector<ops::SampleRow> sampling_;
  std::vector<ops::BlockPair> copies_;
  bool decodes_ = false;
};

}  // namespace shoal::rank
