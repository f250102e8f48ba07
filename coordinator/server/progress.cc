#include "coordinator/server/progress.h"

#include <utility>

namespace shoal::server {

bool ProgressWatch::Moved(const core::ClusterState& state) {
  // All of these only rise while a group lives, so any change of one changes their sum.
  uint64_t seen = state.answers;
  for (const core::ClusterState::Rank& rank : state.ranks) seen += rank.status.step + rank.status.progress;
  const bool changed = std::exchange(seen_, seen) != seen;
  const bool idle = state.running + state.waiting == 0 && !state.canary_runs;
  return changed || state.phase != core::ClusterState::Phase::kReady || idle;
}

}  // namespace shoal::server
