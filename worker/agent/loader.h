// Fills the shelf with the weights of a joined group: all missing shards in parallel, each byte once.
#pragma once

#include <atomic>
#include <functional>

#include "absl/status/status.h"
#include "common/plan/control.h"
#include "worker/agent/join.h"
#include "worker/agent/shelf.h"

namespace shoal::agent {

// Reports several times a second, and returns with `result` filled (without `done`). Weights that the shelf holds are
// not read; what belongs to other groups is dropped first. On failure every problem is in the status, and the shards
// that did load are kept. Cancelled: `cancelled` became true.
absl::Status LoadWeights(const Joined& joined, int cores, Shelf& shelf, const std::atomic<bool>& cancelled,
                         const std::function<void(const plan::LoadProgress&)>& report, plan::LoadProgress* result);

}  // namespace shoal::agent
