// Tested by: tests/plan/plan_check_test.cc
#include "common/plan/step_plan.h"

namespace shoal::plan {

int32_t StepPlan::TokenCount() const {
  int32_t total = 0;
  for (const Row& row : rows) total += row.count;
  return total;
}

int32_t StepPlan::SampleCount() const {
  int32_t total = 0;
  for (const Row& row : rows) total += row.output == RowOutput::kSample ? 1 : 0;
  return total;
}

}  // namespace shoal::plan
