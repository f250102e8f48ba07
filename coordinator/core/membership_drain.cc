// Tested by: tests/core/drain_test.cc
// How an agent gives its ranks to others: these read the weights while the old group still serves, and the old group is
// given up only when nothing is left that could go wrong there. And how a group that had shrunk grows again.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "coordinator/core/membership.h"
#include "coordinator/core/placement.h"

namespace shoal::core {
namespace {

// Without any progress; far above what a slow disk needs.
constexpr DurationNs kPreloadDeadline = 120 * kSecond;
// After a failure that may pass.
constexpr DurationNs kPreloadRetry = kSecond;

bool Same(const std::vector<plan::RankAssignment>& a, const std::vector<plan::RankAssignment>& b) {
  const auto same = [](const plan::RankAssignment& x, const plan::RankAssignment& y) {
    return x.rank == y.rank && x.agent == y.agent && x.slot == y.slot;
  };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), same);
}

std::vector<plan::RankAssignment> Of(const plan::AgentId& agent, const std::vector<plan::RankAssignment>& group) {
  std::vector<plan::RankAssignment> own;
  for (const plan::RankAssignment& a : group) {
    if (a.agent == agent) own.push_back(a);
  }
  return own;
}

std::string Named(const plan::AgentInfo& info) { return absl::StrCat("agent ", info.id, " on ", info.hostname); }

int64_t Mib(int64_t bytes) { return bytes / (1024 * 1024); }

}  // namespace

ClusterState::AgentState Membership::StateOf(const plan::AgentId& id) const {
  const Agent& agent = agents_.at(id);
  if (agent.drained) return ClusterState::AgentState::kDrained;
  if (agent.draining) return ClusterState::AgentState::kDraining;
  if (agent.silent) return ClusterState::AgentState::kSilent;
  return InGroup(id) ? ClusterState::AgentState::kServing : ClusterState::AgentState::kSpare;
}

void Membership::Drain(const plan::AgentId& id, TimeNs now, EffectList& fx) {
  const auto it = agents_.find(id);
  if (it == agents_.end()) return fx.Warn(absl::StrCat("no agent ", id, " to be drained"));
  Agent& agent = it->second;
  if (agent.draining || agent.drained) return;
  fx.Info(absl::StrCat(Named(agent.info), " shall be drained"));
  BeginDrain(agent, fx);
  PlanHandover(now, fx);
}

void Membership::BeginDrain(Agent& agent, EffectList& fx) {
  if (phase_ == Phase::kReady && !InGroup(agent.info.id)) {
    agent.drained = true;
    agent.preload = {};
    fx.Info(absl::StrCat(Named(agent.info), " is drained: it had no ranks"));
  } else {
    agent.draining = true;
    if (phase_ != Phase::kReady) handover_ = "there is no group at present";
  }
  TellDrain(agent, fx);
}

void Membership::TakeDrain(Agent& agent, plan::DrainState state, EffectList& fx) {
  if (state == plan::DrainState::kDrained && !InGroup(agent.info.id)) {
    agent.drained = true;
    return;
  }
  fx.Info(absl::StrCat(Named(agent.info), " says that it shall be drained"));
  // A group that had to do without it may need it to be whole again.
  if (phase_ == Phase::kReady && !InGroup(agent.info.id) && layout_ != asked_) {
    agent.draining = true;
  } else {
    BeginDrain(agent, fx);
  }
}

void Membership::TellDrain(const Agent& agent, EffectList& fx) {
  // As a preload, it may come to one that has seen higher epochs than ours.
  fx.control.push_back(SendDrain{agent.info.id, std::max(epoch_, agent.info.highest_epoch), agent.drain()});
}

bool Membership::Drains() const {
  return std::any_of(group_.begin(), group_.end(),
                     [this](const plan::RankAssignment& a) { return agents_.at(a.agent).draining; });
}

void Membership::SayHandover(std::string text, EffectList& fx) {
  if (text == handover_) return;
  handover_ = std::move(text);
  fx.Info(absl::StrCat("draining: ", handover_));
}

size_t Membership::SlotsUsed(const plan::AgentId& id, const std::vector<plan::RankAssignment>& group) {
  int32_t used = 0;
  for (const plan::RankAssignment& a : group) {
    if (a.agent == id) used = std::max(used, a.slot + 1);
  }
  return static_cast<size_t>(used);
}

void Membership::PlanHandover(TimeNs now, EffectList& fx) {
  PrepareHandover(now, fx);
  ReleasePreloads(fx);
}

void Membership::PrepareHandover(TimeNs now, EffectList& fx) {
  handover_ready_ = false;
  handover_at_ = 0;
  next_.clear();
  if (phase_ != Phase::kReady || !Drains()) return;
  do {
    std::vector<plan::AgentInfo> usable = Usable(layout_, Draining::kNone, /*put_off=*/true);
    for (plan::AgentInfo& info : usable) {
      if (agents_.at(info.id).preload.state == Preload::State::kUnfit) info.slots.resize(SlotsUsed(info.id, group_));
    }
    std::erase_if(usable, [](const plan::AgentInfo& info) { return info.slots.empty(); });
    auto placed = PlaceRanks(usable, {layout_.tp, layout_.pp, /*nnodes=*/1, group_, may_span_hosts()});
    if (!placed.ok()) return SayHandover(absl::StrCat("no replacement yet: ", placed.status().message()), fx);
    next_ = *std::move(placed);
    bool prepared = true;
    for (auto& [id, agent] : agents_) {
      std::vector<plan::RankAssignment> own = Of(id, next_);
      if (own.empty() || Same(own, Of(id, group_))) continue;  // it has what it needs
      if (agent.preload.state == Preload::State::kUnfit) {     // a free slot before those that it uses
        return SayHandover(absl::StrCat("no replacement yet: ", Named(agent.info), " cannot take more"), fx);
      }
      const bool asked = Same(own, agent.preload.ranks);
      if (asked && agent.preload.state == Preload::State::kDone) continue;
      prepared = false;
      if (asked && agent.preload.state == Preload::State::kRunning) continue;
      StartPreload(agent, std::move(own), now, fx);
    }
    if (!prepared) return;
  } while (!CheckHandover(fx));
}

void Membership::StartPreload(Agent& agent, std::vector<plan::RankAssignment> ranks, TimeNs now, EffectList& fx) {
  agent.preload = {};
  agent.preloaded = true;
  agent.preload.state = Preload::State::kRunning;
  agent.preload.ranks = std::move(ranks);
  agent.told.clear();
  for (const plan::RankAssignment& a : agent.preload.ranks) agent.told.push_back(a.rank);
  agent.told_layout = layout_;
  agent.preload.deadline = now + kPreloadDeadline;
  SayHandover(absl::StrCat(Named(agent.info), " reads the weights"), fx);
  plan::JoinGroup join = MakeJoin(next_);
  // It may come from a group of a higher epoch than ours; the next one here will be above all.
  join.epoch = agent.preload.epoch = std::max(epoch_, agent.info.highest_epoch);
  fx.control.push_back(SendPreload{agent.info.id, std::move(join)});
}

void Membership::ReleasePreloads(EffectList& fx) {
  if (phase_ != Phase::kReady) return;
  for (auto& [id, agent] : agents_) {
    if (!agent.preloaded || agent.silent) continue;
    const bool unfit = agent.preload.state == Preload::State::kUnfit;
    const bool chosen = next_.empty() || !Of(id, next_).empty();  // or nobody is: it may be, later
    if (Drains() && !agent.drained && !unfit && chosen) continue;
    agent.preloaded = false;
    if (!unfit) agent.preload = {};
    agent.told = RanksOf(id);
    agent.told_layout = layout_;
    agent.info.held_ranks.clear();
    fx.Info(absl::StrCat(Named(agent.info), " lets go of the weights that it has read for others"));
    // A preload of what it has already, or nothing: the rest goes. Nobody waits for the answer.
    plan::JoinGroup join = MakeJoin(group_);
    join.epoch = agent.preload.epoch = std::max(epoch_, agent.info.highest_epoch);
    fx.control.push_back(SendPreload{id, std::move(join)});
  }
}

bool Membership::CheckHandover(EffectList& fx) {
  std::vector<plan::JoinReply::Rank> ranks;
  std::vector<Agent*> newcomers;
  for (auto& [id, agent] : agents_) {
    const std::vector<plan::RankAssignment> own = Of(id, next_);
    if (own.empty()) continue;
    const bool stays = Same(own, Of(id, group_));
    const plan::JoinReply& reply = stays ? agent.reply : agent.preload.reply;
    ranks.insert(ranks.end(), reply.ranks.begin(), reply.ranks.end());
    if (stays) continue;
    newcomers.push_back(&agent);
    if (reply.numerics_id == numerics_id_) continue;
    Unfit(agent, absl::StrCat("would compute differently: it has numerics ", reply.numerics_id), fx);
    return false;
  }
  std::sort(ranks.begin(), ranks.end(), [](const auto& a, const auto& b) { return a.rank < b.rank; });
  const absl::StatusOr<plan::MirrorLimits> limits = Size(ranks);
  if (limits.ok() && limits->max_model_len >= limits_.max_model_len) {
    handover_ready_ = true;
    SayHandover("the replacement has the weights", fx);
    return true;
  }
  for (Agent* agent : newcomers) {
    Unfit(*agent,
          limits.ok() ? absl::StrCat("has room for ", limits->max_model_len, " tokens only")
                      : std::string(limits.status().message()),
          fx);
  }
  return newcomers.empty();
}

void Membership::Unfit(Agent& agent, const std::string& why, EffectList& fx) {
  agent.preload.state = Preload::State::kUnfit;
  agent.preload.deadline = 0;
  agent.told = RanksOf(agent.info.id);
  SayHandover(absl::StrCat(Named(agent.info), " cannot be the replacement: it ", why), fx);
}

Membership::Agent* Membership::Preloading(const plan::AgentId& id, uint64_t epoch) {
  const auto it = agents_.find(id);
  if (it == agents_.end() || epoch != it->second.preload.epoch) {
    Stale(plan::StalePlace::kReply);
    return nullptr;
  }
  return it->second.preload.state == Preload::State::kRunning ? &it->second : nullptr;
}

void Membership::PreloadAdvanced(const core::PreloadAdvanced& advance, TimeNs now, EffectList& fx) {
  Agent* agent = Preloading(advance.progress.agent, advance.epoch);
  if (agent == nullptr) return;
  Preload& preload = agent->preload;
  if (advance.progress.bytes_done > preload.progress.bytes_done) preload.deadline = now + kPreloadDeadline;
  preload.progress = advance.progress;
  if (!advance.progress.done) {
    handover_ = absl::StrCat(Named(agent->info), " reads the weights: ", Mib(advance.progress.bytes_done), " of ",
                             Mib(advance.progress.bytes_total), " MiB");
    return;
  }
  std::vector<int32_t> named, assigned;
  for (const plan::JoinReply::Rank& r : advance.reply.ranks) named.push_back(r.rank);
  for (const plan::RankAssignment& a : preload.ranks) assigned.push_back(a.rank);
  std::sort(named.begin(), named.end());
  if (named != assigned) return;  // what it was asked for before; the agent does one after the other
  preload.reply = advance.reply;
  preload.deadline = 0;
  preload.state = Preload::State::kDone;
  PlanHandover(now, fx);
}

void Membership::PreloadFailed(const core::PreloadFailed& failure, TimeNs now, EffectList& fx) {
  Agent* agent = Preloading(failure.agent, failure.epoch);
  if (agent == nullptr) return;
  const absl::Status& why = failure.status;
  Unfit(*agent, absl::StrCat("could not read the weights: ", why.message()), fx);
  const bool may_pass = absl::IsAborted(why) || absl::IsCancelled(why);
  if (!may_pass) return PlanHandover(now, fx);
  agent->preload = {};
  handover_at_ = now + kPreloadRetry;
}

void Membership::PreloadTimer(TimeNs now, EffectList& fx) {
  bool plan = handover_at_ != 0 && now >= handover_at_;
  for (auto& [id, agent] : agents_) {
    if (agent.preload.deadline == 0 || now < agent.preload.deadline) continue;
    Unfit(agent, "stands still while it reads the weights", fx);
    plan = true;
  }
  if (plan) PlanHandover(now, fx);
}

void Membership::HandOver(TimeNs now, EffectList& fx) {
  SHOAL_CHECK(handover_ready_ && phase_ == Phase::kReady);
  PlacedLayout next{layout_, std::move(next_)};
  std::string reason = "its ranks move:";
  for (const plan::AgentId& id : GroupAgents()) {
    if (agents_.at(id).draining) absl::StrAppend(&reason, " ", Named(agents_.at(id).info), " is drained");
  }
  if (options_.replace_timeout > 0) replace_at_ = now + options_.replace_timeout;
  AbortGroup(reason, fx);
  loss_ = detail_ = std::move(reason);
  blamed_ = false;
  phase_ = Phase::kWaitingForAgents;
  SayHandover("the group is formed on the replacement", fx);
  // There and with these ranks; if it fails, the agents that shall go have them back.
  Form(std::move(next), now, fx);
}

void Membership::Grow(TimeNs now, EffectList& fx) {
  if (!may_grow() || !Place(asked_, Draining::kNone, /*put_off=*/false).ok()) return;
  grow_ = false;
  growing_ = true;
  Lose(absl::StrCat("there are agents for ", LayoutText(asked_), " again"), /*blamed=*/false, now, fx);
}

}  // namespace shoal::core
