// Tested by: tests/core/serving_test.cc
#include "coordinator/core/plan_builder.h"

#include <cstdio>
#include <utility>

#include "common/base/check.h"

namespace shoal::core {

void PlanBuilder::AddBlocks(plan::SequenceId id, std::vector<int32_t> blocks) {
  next_.blocks_added.push_back({id, std::move(blocks)});
}

plan::StepPlan PlanBuilder::Finish(int32_t cohort) {
  SHOAL_CHECK(has_rows());
  ++stamp_.step;
  next_.stamp = stamp_;
  next_.cohort = cohort;
  const absl::Status status = mirror_.Apply(next_, /*check_digest=*/false);
  if (!status.ok()) std::fprintf(stderr, "own plan refused: %s\n", status.ToString().c_str());
  SHOAL_CHECK(status.ok());
  next_.mirror_digest = mirror_.digest();
  return std::exchange(next_, plan::StepPlan{});
}

}  // namespace shoal::core
