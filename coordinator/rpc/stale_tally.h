// How often what belongs to another epoch was refused, by place: here, and at the agents that have told. Thread-safe.
#pragma once

#include <unordered_map>

#include "common/base/mutex.h"
#include "common/plan/control.h"

namespace shoal::rpc {

class StaleTally {
 public:
  void Count(plan::StalePlace place) { own_.Count(place); }
  // What this agent has counted since its start. What it has told before is not added again; less than that (an older
  // message) changes nothing.
  void Hear(const plan::AgentId& agent, const plan::StaleCounts& counts) SHOAL_EXCLUDES(mutex_);
  // Of all places. Never falls; an agent that outlives its coordinator brings what it counted before.
  plan::StaleCounts Total() const SHOAL_EXCLUDES(mutex_);

 private:
  plan::StaleCounters own_;
  mutable Mutex mutex_;
  plan::StaleCounts told_ SHOAL_GUARDED_BY(mutex_){};
  std::unordered_map<plan::AgentId, plan::StaleCounts> by_agent_ SHOAL_GUARDED_BY(mutex_);
};

}  // namespace shoal::rpc
