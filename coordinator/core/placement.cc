#include "coordinator/core/placement.h"

#include <algorithm>
#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace shoal::core {
namespace {

// Slots of some agents while ranks are put on them.
class Pool {
 public:
  Pool(std::vector<const plan::AgentInfo*> agents, const PlacementWish& wish) : wish_(wish) {
    for (const plan::AgentInfo* info : agents)
      agents_.push_back({info, std::vector<bool>(info->slots.size(), false), 0});
    ranks_.resize(wish.tp * wish.pp);
    placed_.resize(ranks_.size(), false);
  }

  std::vector<plan::RankAssignment> Place() {
    KeepPrevious();
    KeepHeld();
    const int32_t world = static_cast<int32_t>(ranks_.size());
    const int32_t even = (world + wish_.nnodes - 1) / wish_.nnodes;
    PlaceStages(even);
    PlaceRest(even);
    PlaceStages(world);
    PlaceRest(world);
    return std::move(ranks_);
  }

 private:
  struct Agent {
    const plan::AgentInfo* info;
    std::vector<bool> used;  // [slots]
    int32_t count;           // of them used
    int32_t Room(int32_t share) const { return std::min(share, static_cast<int32_t>(used.size())) - count; }
  };

  void Put(int32_t rank, Agent& agent, int32_t slot) {
    ranks_[rank] = {rank, agent.info->id, slot};
    placed_[rank] = true;
    agent.used[slot] = true;
    ++agent.count;
  }
  void Put(int32_t rank, Agent& agent) {
    const auto slot = std::find(agent.used.begin(), agent.used.end(), false);
    Put(rank, agent, static_cast<int32_t>(slot - agent.used.begin()));
  }

  static bool Holds(const plan::AgentInfo& info, int32_t rank) {
    return std::find(info.held_ranks.begin(), info.held_ranks.end(), rank) != info.held_ranks.end();
  }

  void KeepPrevious() {
    for (const plan::RankAssignment& p : wish_.previous) {
      if (p.rank < 0 || p.rank >= static_cast<int32_t>(ranks_.size()) || placed_[p.rank]) continue;
      const bool held =
          std::any_of(agents_.begin(), agents_.end(), [&](const Agent& agent) { return Holds(*agent.info, p.rank); });
      for (Agent& agent : agents_) {
        const bool has_slot = p.slot >= 0 && p.slot < static_cast<int32_t>(agent.used.size());
        if (held && !Holds(*agent.info, p.rank)) continue;  // started again since, and another one has the weights
        if (agent.info->id == p.agent && has_slot && !agent.used[p.slot]) Put(p.rank, agent, p.slot);
      }
    }
  }

  void KeepHeld() {
    for (Agent& agent : agents_) {
      for (int32_t rank : agent.info->held_ranks) {
        const bool known = rank >= 0 && rank < static_cast<int32_t>(ranks_.size());
        if (known && !placed_[rank] && agent.Room(static_cast<int32_t>(agent.used.size())) > 0) Put(rank, agent);
      }
    }
  }

  void PlaceStages(int32_t share) {
    for (int32_t stage = 0; stage < wish_.pp; ++stage) {
      const int32_t first = stage * wish_.tp;
      if (std::find(placed_.begin() + first, placed_.begin() + first + wish_.tp, true) !=
          placed_.begin() + first + wish_.tp) {
        continue;
      }
      for (Agent& agent : agents_) {
        if (agent.Room(share) < wish_.tp) continue;
        for (int32_t t = 0; t < wish_.tp; ++t) Put(first + t, agent);
        break;
      }
    }
  }

  void PlaceRest(int32_t share) {
    for (int32_t rank = 0; rank < static_cast<int32_t>(ranks_.size()); ++rank) {
      for (Agent& agent : agents_) {
        if (placed_[rank]) break;
        if (agent.Room(share) > 0) Put(rank, agent);
      }
    }
  }

  const PlacementWish& wish_;
  std::vector<Agent> agents_;
  std::vector<plan::RankAssignment> ranks_;
  std::vector<bool> placed_;
};

// Whether a rank was on an agent, still there, of another boot id.
bool StaysElsewhere(std::span<const plan::AgentInfo> agents, const PlacementWish& wish, const std::string& boot) {
  return std::any_of(wish.previous.begin(), wish.previous.end(), [&](const plan::RankAssignment& p) {
    return std::any_of(agents.begin(), agents.end(),
                       [&](const plan::AgentInfo& a) { return a.id == p.agent && a.boot_id != boot; });
  });
}

}  // namespace

absl::StatusOr<std::vector<plan::RankAssignment>> PlaceRanks(std::span<const plan::AgentInfo> agents,
                                                             const PlacementWish& wish) {
  const size_t world = static_cast<size_t>(wish.tp) * wish.pp;
  std::vector<std::string> boots, found;
  for (const plan::AgentInfo& a : agents) {
    if (std::find(boots.begin(), boots.end(), a.boot_id) == boots.end()) boots.push_back(a.boot_id);
  }
  const auto slots_of = [](const std::vector<const plan::AgentInfo*>& some) {
    size_t slots = 0;
    for (const plan::AgentInfo* a : some) slots += a->slots.size();
    return slots;
  };
  const auto enough = [&](const std::vector<const plan::AgentInfo*>& some) {
    return some.size() >= static_cast<size_t>(wish.nnodes) && slots_of(some) >= world;
  };
  std::vector<const plan::AgentInfo*> all;
  for (const plan::AgentInfo& a : agents) all.push_back(&a);
  for (const std::string& boot : boots) {
    std::vector<const plan::AgentInfo*> here;
    std::copy_if(all.begin(), all.end(), std::back_inserter(here), [&](auto* a) { return a->boot_id == boot; });
    const bool free = !wish.span_hosts || !StaysElsewhere(agents, wish, boot);
    if (free && enough(here)) return Pool(here, wish).Place();
    found.push_back(absl::StrCat(here.size(), " with ", slots_of(here), " slots on ", here[0]->hostname));
  }
  if (wish.span_hosts && enough(all)) return Pool(all, wish).Place();
  std::string wait = absl::StrCat("waiting for ", wish.nnodes, wish.nnodes == 1 ? " agent" : " agents", " with ", world,
                                  world == 1 ? " slot; there " : " slots; there ",
                                  found.empty() ? "is none" : absl::StrCat("are ", absl::StrJoin(found, ", ")));
  if (boots.size() > 1 && !wish.span_hosts) {
    absl::StrAppend(&wait, "; over shared memory a group cannot span hosts (boot ids differ)");
  }
  return absl::UnavailableError(wait);
}

}  // namespace shoal::core
