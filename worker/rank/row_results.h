// What a step's samples and log-probabilities are to the coordinator.
#pragma once

#include <vector>

#include "common/plan/step_plan.h"
#include "worker/rank/step_runner.h"

namespace shoal::rank {

// Of a step whose mark is reached. A row without a token, or one of whose known tokens had no finite logits, has an
// error and nothing else: the coordinator will end its sequence.
std::vector<plan::RowResult> RowResultsOf(const EnqueuedStep& step);

}  // namespace shoal::rank
