// Plans out of the agent's ring. One thread.
#pragma once

#include <atomic>
#include <cstdint>

#include "common/plan/ring.h"
#include "worker/rank/engine.h"

namespace shoal::rank {

class RingSource final : public PlanSource {
 public:
  // Takes the plans with the epoch and the incarnation of `group`; others are passed over and counted in `stale`.
  RingSource(plan::RingReader* reader, const plan::Stamp& group, std::atomic<uint64_t>* stale)
      : reader_(reader), group_(group), stale_(stale) {}

  absl::Status Next(plan::StepPlan* plan, TimeNs* arrived) override;
  bool HasNext() const override { return reader_->HasNext(); }

 private:
  plan::RingReader* const reader_;
  const plan::Stamp group_;
  std::atomic<uint64_t>* const stale_;
};

}  // namespace shoal::rank
