// Tested by: tests/rank/step_batch_test.cc
#include "worker/rank/places.h"

#include "common/base/check.h"

namespace shoal::rank {

Places::Places(int count) {
  for (int i = count - 1; i >= 0; --i) free_.push_back(i);
}

void Places::Apply(const plan::StepPlan& plan) {
  for (const plan::SequenceId id : plan.ends) {
    const auto it = places_.find(id);
    if (it == places_.end()) continue;  // it never had rows
    free_.push_back(it->second.index);
    places_.erase(it);
  }
  for (const plan::Row& row : plan.rows) {
    if (places_.contains(row.id)) continue;
    SHOAL_CHECK(!free_.empty());  // plan_check has seen to it
    places_[row.id] = {.index = free_.back(), .owner = ++owners_};
    free_.pop_back();
  }
}

const graph::SequencePlace* Places::Find(plan::SequenceId id) const {
  const auto it = places_.find(id);
  return it == places_.end() ? nullptr : &it->second;
}

}  // namespace shoal::rank
