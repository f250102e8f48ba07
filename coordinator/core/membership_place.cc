// Tested by: tests/core/place_test.cc
// Where the next group goes: which agents and layouts are tried, in which order. The README has the table.
#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "coordinator/core/blame.h"
#include "coordinator/core/membership.h"
#include "coordinator/core/placement.h"

namespace shoal::core {
namespace {

// Far more than there are ways to place a group on a handful of agents.
constexpr size_t kMaxTried = 32;

// Agents name weights "REVISION/.../tpXxpY/...".
constexpr std::string_view kLayoutMark = "/tp";

bool SamePlace(const PlacedLayout& a, const PlacedLayout& b) {
  const auto same = [](const plan::RankAssignment& x, const plan::RankAssignment& y) {
    return x.rank == y.rank && x.agent == y.agent && x.slot == y.slot;
  };
  return a.layout == b.layout && std::equal(a.ranks.begin(), a.ranks.end(), b.ranks.begin(), b.ranks.end(), same);
}

}  // namespace

absl::StatusOr<std::vector<plan::RankAssignment>> Membership::Place(const Layout& layout, Draining draining,
                                                                    bool put_off) const {
  // How many agents to wait for is a question of the start: later whoever has a slot will do.
  PlacementWish wish{layout.tp, layout.pp, existed_ && !waits_for_holders() ? 1 : options_.nnodes, {}};
  if (layout == previous_layout_) wish.previous = previous_;
  wish.span_hosts = may_span_hosts();
  return PlaceRanks(Usable(layout, draining, put_off), wish);
}

std::vector<PlacedLayout> Membership::Places(absl::Status* why) const {
  std::vector<PlacedLayout> places;
  const auto held = [&](const Layout& layout) {
    std::vector<plan::RankAssignment> ranks = WhereHeld(layout);
    if (!ranks.empty()) places.push_back({layout, std::move(ranks)});
  };
  if (follows()) held(asked_);
  if (follows() && !adoption_lasts()) {
    for (const Layout& layout : HeldLayouts()) held(layout);
  }
  std::vector<Layout> layouts = {asked_};
  if (!(previous_layout_ == asked_)) layouts.push_back(previous_layout_);
  for (const bool put_off : {false, true}) {
    for (const Layout& layout : layouts) {
      for (const Draining draining : {Draining::kStay, Draining::kNone, Draining::kAll}) {
        auto placed = Place(layout, draining, put_off);
        if (!placed.ok()) {
          *why = layout == asked_ ? placed.status() : *why;  // of all agents, in the end
          continue;
        }
        places.push_back({layout, *std::move(placed)});
      }
    }
    if (!may_shrink_ || waits_for_holders()) continue;
    auto smaller = ChooseSmallerLayout(options_.model, Usable(asked_, Draining::kAll, put_off), asked_, too_large_,
                                       may_span_hosts());
    if (smaller.ok()) {
      places.push_back(*std::move(smaller));
    } else if (put_off) {
      *why = absl::UnavailableError(absl::StrCat(why->message(), why->ok() ? "" : "; ", smaller.status().message()));
    }
  }
  return places;
}

absl::StatusOr<PlacedLayout> Membership::ChoosePlace() {
  absl::Status why;
  std::vector<PlacedLayout> places = Places(&why);
  if (places.empty()) return why;
  const auto fresh = std::find_if(places.begin(), places.end(), [this](const PlacedLayout& place) {
    return std::none_of(tried_.begin(), tried_.end(), [&](const Tried& tried) {
      return tried.failures >= kWornOut && SamePlace(tried.place, place);
    });
  });
  if (fresh != places.end()) return std::move(*fresh);
  tried_.clear();
  return std::move(places.front());
}

Membership::Tried& Membership::Attempt() {
  PlacedLayout place{layout_, group_};
  for (Tried& tried : tried_) {
    if (SamePlace(tried.place, place)) return tried;
  }
  if (tried_.size() == kMaxTried) tried_.clear();
  return tried_.emplace_back(Tried{std::move(place)});
}

Membership::Failure Membership::FailureOf(std::string_view cause) {
  // "rank 3 exited with 4: ..."
  const size_t exit = cause.find("exited with ");
  return Blames(exit == cause.npos ? cause : cause.substr(exit)) ? Failure::kMayPass : Failure::kFromOutside;
}

void Membership::NoteFailure(Agent* by, Failure how) {
  SHOAL_CHECK(forming());
  // A group that grows had a place where it worked.
  Tried& attempt = Attempt();
  attempt.failures = growing_ ? kWornOut : std::min(kWornOut, attempt.failures + static_cast<int32_t>(how));
  if (by != nullptr) by->failures = std::min(kWornOut, by->failures + static_cast<int32_t>(how));
}

void Membership::ForgetFailures(const plan::AgentId& agent) {
  std::erase_if(tried_, [&](const Tried& tried) {
    return std::any_of(tried.place.ranks.begin(), tried.place.ranks.end(),
                       [&](const plan::RankAssignment& a) { return a.agent == agent; });
  });
}

absl::StatusOr<Layout> Membership::HeldLayout(const plan::AgentInfo& info) const {
  // Layouts that this coordinator could not form say nothing.
  const absl::Status none = absl::NotFoundError("nothing of a layout that could have been formed here");
  if (info.held_ranks.empty() || !info.held_model.starts_with(options_.revision + "/")) return none;
  std::string_view rest = std::string_view(info.held_model).substr(options_.revision.size());
  for (size_t at = rest.find(kLayoutMark); at != rest.npos; at = rest.find(kLayoutMark)) {
    rest.remove_prefix(at + kLayoutMark.size());
    const std::string part(rest.substr(0, rest.find('/')));
    const size_t middle = part.find("xpp");
    Layout layout;
    if (middle == part.npos || !absl::SimpleAtoi(part.substr(0, middle), &layout.tp)) continue;
    if (!absl::SimpleAtoi(part.substr(middle + 3), &layout.pp)) continue;
    if (layout.tp < 1 || layout.tp > asked_.tp || layout.pp < 1 || layout.pp > asked_.pp) continue;
    if (plan::MakeShardPlan(options_.model, layout.tp, layout.pp).ok()) return layout;
  }
  return none;
}

std::vector<Layout> Membership::HeldLayouts() const {
  std::vector<Layout> layouts;
  for (const plan::AgentInfo& info : Usable(asked_, Draining::kAll, /*put_off=*/true)) {
    const absl::StatusOr<Layout> layout = HeldLayout(agents_.at(info.id).info);
    if (!layout.ok() || *layout == asked_) continue;
    if (std::find(layouts.begin(), layouts.end(), *layout) == layouts.end()) layouts.push_back(*layout);
  }
  return layouts;
}

std::vector<plan::RankAssignment> Membership::WhereHeld(const Layout& layout) const {
  std::vector<plan::RankAssignment> ranks;
  std::map<plan::AgentId, int32_t> used;
  std::vector<plan::AgentInfo> usable = Usable(layout, Draining::kAll, /*put_off=*/false);
  // Where a handover was about to come, two have them.
  std::stable_partition(usable.begin(), usable.end(),
                        [this](const plan::AgentInfo& info) { return !agents_.at(info.id).draining; });
  for (int32_t rank = 0; rank < layout.ranks(); ++rank) {
    const auto holder = std::find_if(usable.begin(), usable.end(), [&](const plan::AgentInfo& info) {
      const auto& held = info.held_ranks;
      return used[info.id] < static_cast<int32_t>(info.slots.size()) &&
             std::find(held.begin(), held.end(), rank) != held.end();
    });
    if (holder == usable.end()) return {};
    ranks.push_back({rank, holder->id, used[holder->id]++});
  }
  const std::string& boot = agents_.at(ranks[0].agent).info.boot_id;
  const bool one_host = std::all_of(ranks.begin(), ranks.end(), [&](const plan::RankAssignment& a) {
    return agents_.at(a.agent).info.boot_id == boot;
  });
  return one_host || may_span_hosts() ? ranks : std::vector<plan::RankAssignment>();
}

std::vector<plan::AgentInfo> Membership::Usable(const Layout& layout, Draining draining, bool put_off) const {
  std::vector<const Agent*> sorted;
  for (const auto& [id, agent] : agents_) {
    if (agent.silent || agent.drained || (agent.put_off() && !put_off)) continue;
    if (!agent.draining || draining != Draining::kNone) sorted.push_back(&agent);
  }
  std::sort(sorted.begin(), sorted.end(), [](const Agent* a, const Agent* b) { return a->order < b->order; });
  // Weights of another checkpoint or layout are no reason to place a rank.
  const std::string key = absl::StrCat(std::string(kLayoutMark), layout.tp, "xpp", layout.pp, "/");
  std::vector<plan::AgentInfo> infos;
  for (const Agent* agent : sorted) {
    plan::AgentInfo info = agent->info;
    if (agent->draining && draining == Draining::kStay) {
      const size_t used = layout == previous_layout_ ? SlotsUsed(info.id, previous_) : 0;
      info.slots.resize(std::min(info.slots.size(), used));
      if (info.slots.empty()) continue;
    }
    if (!info.held_model.starts_with(options_.revision + "/") || info.held_model.find(key) == std::string::npos) {
      info.held_ranks.clear();
    }
    if (!agent->told.empty()) {
      info.held_ranks = agent->told_layout == layout ? agent->told : std::vector<int32_t>();
    }
    infos.push_back(std::move(info));
  }
  return infos;
}

}  // namespace shoal::core
