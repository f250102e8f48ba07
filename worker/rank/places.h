// Where a device keeps what it knows of each sequence from step to step (graph::SequencePlace): given when a sequence
// first has rows, free again when it ends. Every rank has its own; what they are is no business of others.
#pragma once

#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/plan/step_plan.h"
#include "worker/graph/decoder.h"

namespace shoal::rank {

class Places {
 public:
  // `count`: sequences that run at once.
  explicit Places(int count);

  // A plan that the mirror has applied: so there is a place for each sequence that has rows.
  void Apply(const plan::StepPlan& plan);
  // Of a sequence with rows in a plan since it started. Null: none.
  const graph::SequencePlace* Find(plan::SequenceId id) const;

 private:
  absl::flat_hash_map<plan::SequenceId, graph::SequencePlace> places_;
  std::vector<int32_t> free_;
  uint64_t owners_ = 0;
};

}  // namespace shoal::rank
