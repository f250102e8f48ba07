// Tested by: tests/rpc/agents_test.cc
#include "coordinator/rpc/stale_tally.h"

#include <algorithm>

namespace shoal::rpc {
namespace {

// Lives of agents that are remembered; more than a cluster has at a time. One that is forgotten and comes back is added
// in full.
constexpr size_t kMaxAgents = 4096;

}  // namespace

void StaleTally::Hear(const plan::AgentId& agent, const plan::StaleCounts& counts) {
  MutexLock lock(mutex_);
  if (by_agent_.size() >= kMaxAgents && !by_agent_.contains(agent)) by_agent_.erase(by_agent_.begin());
  plan::StaleCounts& known = by_agent_[agent];
  for (size_t place = 0; place < plan::kStalePlaces; ++place) {
    if (counts[place] <= known[place]) continue;
    told_[place] += counts[place] - known[place];
    known[place] = counts[place];
  }
}

plan::StaleCounts StaleTally::Total() const {
  plan::StaleCounts total = own_.Read();
  MutexLock lock(mutex_);
  for (size_t place = 0; place < plan::kStalePlaces; ++place) total[place] += told_[place];
  return total;
}

}  // namespace shoal::rpc
