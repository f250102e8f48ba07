// Makes plans as deltas against the mirror of what the ranks hold. One per epoch. Not thread-safe.
#pragma once

#include <vector>

#include "common/plan/plan_check.h"
#include "common/plan/step_plan.h"

namespace shoal::core {

class PlanBuilder {
 public:
  // `stamp.step` is the last one sent: 0 at first.
  PlanBuilder(const plan::Stamp& stamp, const plan::MirrorLimits& limits) : stamp_(stamp), mirror_(limits) {}

  // What the next plan will say. Ends may pile up while there is nothing to run: the next plan has them all first.
  void End(plan::SequenceId id) { next_.ends.push_back(id); }
  void Start(plan::SequenceStart start) { next_.starts.push_back(std::move(start)); }
  void AddBlocks(plan::SequenceId id, std::vector<int32_t> blocks);
  void Copy(const plan::BlockCopy& copy) { next_.copies.push_back(copy); }
  void AddRow(const plan::Row& row) { next_.rows.push_back(row); }
  bool has_rows() const { return !next_.rows.empty(); }

  // Stamps the plan, applies it to the mirror and signs it with the mirror's digest. That it passes plan_check is ours
  // to guarantee: it aborts when not. Precondition: has_rows().
  plan::StepPlan Finish(int32_t cohort);

  const plan::PlanMirror& mirror() const { return mirror_; }
  const plan::Stamp& stamp() const { return stamp_; }
  const std::vector<plan::SequenceId>& pending_ends() const { return next_.ends; }

 private:
  plan::Stamp stamp_;
  plan::PlanMirror mirror_;
  plan::StepPlan next_;
};

}  // namespace shoal::core
