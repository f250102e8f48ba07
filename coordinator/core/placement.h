// Which agent runs which rank. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/plan/control.h"

namespace shoal::core {

struct PlacementWish {
  int32_t tp = 1, pp = 1;
  int32_t nnodes = 1;                          // agents to wait for
  std::vector<plan::RankAssignment> previous;  // where the ranks were last: kept wherever that agent and slot still are
  bool span_hosts = false;                     // ranks need not share memory
};

// Assignments in rank order. `agents` in the order in which they came. Those of one boot id share memory, and the first
// boot id with enough agents and slots has the group; where none has, or ranks would have to leave an agent of another
// one, and the group may span hosts, it is all of them. Ranks that stay, stay, unless only others hold their weights;
// then ranks whose weights an agent holds; then whole stages on one agent, each agent taking at most an even share
// where that suffices; what is left goes wherever there is a slot. Unavailable says what is being waited for.
absl::StatusOr<std::vector<plan::RankAssignment>> PlaceRanks(std::span<const plan::AgentInfo> agents,
                                                             const PlacementWish& wish);

}  // namespace shoal::core
