// Tested by: tests/core/layout_test.cc
#include "coordinator/core/layout.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/plan/shard_plan.h"
#include "coordinator/core/placement.h"

namespace shoal::core {

std::string LayoutText(const Layout& layout) { return absl::StrCat("tp ", layout.tp, " x pp ", layout.pp); }

absl::StatusOr<PlacedLayout> ChooseSmallerLayout(const model::ModelConfig& model,
                                                 std::span<const plan::AgentInfo> agents, const Layout& asked,
                                                 std::span<const Layout> refused, bool span_hosts) {
  PlacedLayout best;
  double best_speed = 0;
  int64_t slots = 0;
  for (const plan::AgentInfo& agent : agents) slots += static_cast<int64_t>(agent.slots.size());
  for (int32_t tp = asked.tp; tp >= 1; --tp) {
    for (int32_t pp = asked.pp; pp >= 1; --pp) {
      const Layout layout{tp, pp};
      if (int64_t{tp} * pp > slots) continue;
      if (std::find(refused.begin(), refused.end(), layout) != refused.end()) continue;
      const absl::StatusOr<plan::ShardPlan> shards = plan::MakeShardPlan(model, tp, pp);
      if (!shards.ok()) continue;
      // Against one rank with the whole model: ranks, less what uneven work takes away.
      const double speed = layout.ranks() * plan::BalanceBound(model, *shards);
      if (speed <= best_speed) continue;
      auto placed = PlaceRanks(agents, {tp, pp, /*nnodes=*/1, {}, span_hosts});
      if (!placed.ok()) continue;
      best = {layout, *std::move(placed)};
      best_speed = speed;
    }
  }
  if (best.ranks.empty()) {
    return absl::UnavailableError(absl::StrCat("no layout up to ", LayoutText(asked), " fits what is there"));
  }
  return best;
}

}  // namespace shoal::core
