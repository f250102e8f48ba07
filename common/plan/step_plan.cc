// Tested by: tests/plan/plan_check_test.cc
#include "common/plan/step_plan.h"

#include <algorithm>
#include <bit>

namespace shoal::plan {

int32_t StepPlan::TokenCount() const {
  int32_t total = 0;
  for (const Row& row : rows) total += row.count;
  return total;
}

int32_t StepPlan::SampleCount() const {
  int32_t total = 0;
  for (const Row& row : rows) total += Samples(row.output) ? 1 : 0;
  return total;
}

int32_t OutputCount(const Row& row) { return TellsLogprobs(row.output) ? row.count : Samples(row.output) ? 1 : 0; }

int32_t OutputCount(const StepPlan& plan) {
  int32_t total = 0;
  for (const Row& row : plan.rows) total += OutputCount(row);
  return total;
}

int32_t GraphBucket(int32_t rows, int32_t most) {
  if (rows > most) return 0;
  uint32_t bucket = 1;
  while (bucket < static_cast<uint32_t>(rows)) bucket += bucket < 4 ? bucket : std::max(4u, std::bit_floor(bucket) / 4);
  return static_cast<int32_t>(std::min(bucket, static_cast<uint32_t>(most)));
}

}  // namespace shoal::plan
