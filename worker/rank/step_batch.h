// From a plan's rows to what the decoder and the sampler take. Pure layout: reads the plan and the mirror, decides
// nothing.
#pragma once

#include <vector>

#include "common/plan/plan_check.h"
#include "common/plan/step_plan.h"
#include "kernels/ops/copy_blocks.h"
#include "kernels/ops/sample.h"
#include "worker/graph/decoder.h"
#include "worker/rank/places.h"

namespace shoal::rank {

// Reused from step to step: no allocation once it has seen its largest plan.
class StepBatch {
 public:
  // `mirror` and `places` have applied the plan. Block tables are views into the mirror: valid until it applies the
  // next plan.
  void Build(const plan::StepPlan& plan, const plan::PlanMirror& mirror, const Places& places);

  // Without the sources of its tokens.
  const graph::Batch& batch() const { return batch_; }
  // The rows that sample, in plan order.
  const std::vector<plan::SequenceId>& sampled() const { return sampled_; }
  const std::vector<ops::BlockPair>& copies() const { return copies_; }
  bool decodes() const { return decodes_; }  // at least one row continues from a sample

 private:
  graph::Batch batch_;
  std::vector<int32_t> positions_, sample_rows_;
  std::vector<int64_t> slots_;
  std::vector<ops::AttentionSequence> sequences_;
  std::vector<graph::SequencePlace> places_;
  std::vector<plan::SequenceId> sampled_;
  std::vector<ops::SampleRow> sampling_;
  std::vector<ops::BlockPair> copies_;
  bool decodes_ = false;
};

}  // namespace shoal::rank
