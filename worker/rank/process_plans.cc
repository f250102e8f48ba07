// Tested by: tests/process/process_plans_test.cc
#include "worker/rank/process_plans.h"

#include "common/base/status_macros.h"
#include "common/plan/wire.h"

namespace shoal::rank {

absl::Status RingSource::Next(plan::StepPlan* plan, TimeNs* arrived) {
  while (true) {
    SHOAL_ASSIGN_OR_RETURN(plan::Record record, reader_->Next(-1, nullptr));
    if (record.kind == plan::RecordKind::kStop) return absl::CancelledError("told to stop");
    if (record.kind != plan::RecordKind::kPlan) continue;  // the setups of the other ranks
    if (record.stamp.epoch != group_.epoch || record.stamp.incarnation != group_.incarnation) {
      stale_->fetch_add(1, std::memory_order_relaxed);
      continue;
    }
    SHOAL_ASSIGN_OR_RETURN(*plan, plan::DecodePlan(record.payload));
    *arrived = record.written;
    return absl::OkStatus();
  }
}

}  // namespace shoal::rank
