// What must be true at the end of a run: the promise, put into checks. Pure.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "tools/sim/scenario.h"

namespace shoal::sim {

// What was done to a cluster and seen of it, as far as it says which failures are in order.
struct History {
  struct Sample {
    TimeNs at;
    core::ClusterState::Phase phase;
    bool up;  // there was a coordinator
  };
  std::vector<Sample> samples;                       // at least every kSampleEvery
  std::vector<TimeNs> restarts;                      // of the coordinator
  std::vector<std::pair<TimeNs, TimeNs>> troubles;   // from, to: faults that may keep a group from being there
  std::vector<std::pair<TimeNs, TimeNs>> distrusts;  // from, to: ranks show that they compute wrongly
  std::vector<std::pair<TimeNs, TimeNs>> wrong;      // from, to: tokens were wrong
  std::set<core::RequestId> cancelled;
  std::map<core::RequestId, size_t> stopped;  // by a stop string, after so many tokens
  std::vector<core::GenerateRequest> requests;
  std::set<FaultKind> kinds;          // that really happened
  int blamed = 0;                     // losses of the group that a step may have caused
  bool false_alarm_possible = false;  // something happened for which a group may be lost
  TimeNs shutdown_at = 0;             // 0: never
};
inline constexpr DurationNs kSampleEvery = 100 * kMillisecond;

// Everything that is wrong, in words; empty: nothing.
std::vector<std::string> Judge(const Scenario& scenario, const VirtualCluster& cluster, const History& history);

}  // namespace shoal::sim
