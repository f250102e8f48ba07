// Tested by: tests/core/recovery_test.cc
#include "coordinator/core/membership.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "coordinator/core/blame.h"
#include "coordinator/core/canary.h"
#include "coordinator/core/sizing.h"

namespace shoal::core {
namespace {

// A first group that cannot be formed in so many attempts never will be: the process says why instead.
constexpr int32_t kMaxFirstAttempts = 5;
constexpr DurationNs kFirstRetry = 100 * kMillisecond, kLongestRetry = 5 * kSecond;

std::string Called(const plan::AgentInfo& info) { return absl::StrCat("agent ", info.id, " on ", info.hostname); }

}  // namespace

Membership::Membership(const CoreOptions& options)
    : options_(options),
      asked_{options.tp, options.pp},
      limits_(LimitsBefore(options)),
      existed_(options.adopts || options.stored_epoch > 0) {
  detail_ = absl::StrCat("waiting for ", options.nnodes, options.nnodes == 1 ? " agent" : " agents");
  absl::StatusOr<plan::ShardPlan> shards = plan::MakeShardPlan(options.model, options.tp, options.pp);
  if (!shards.ok()) {
    phase_ = Phase::kFailed;
    detail_ = std::string(shards.status().message());
  }
  if (options.max_model_len > options.model.max_position && options.model.max_position > 0) {
    phase_ = Phase::kFailed;
    detail_ = absl::StrCat("max_model_len ", options.max_model_len, " is more than the ", options.model.max_position,
                           " tokens that the model was trained for");
  }
  impossible_ = phase_ == Phase::kFailed;
}

void Membership::Registered(const plan::AgentInfo& info, TimeNs now, EffectList& fx) {
  if (info.build_id != options_.build_id) {
    return fx.Warn(
        absl::StrCat(Called(info), " is of build ", info.build_id, ", this is ", options_.build_id, ": not used"));
  }
  if (InGroup(info.id)) {
    NoteLoss({Detection::kAgentLost, -1, info.id}, now);
    Lose(absl::StrCat(Called(info), " registered again"), /*blamed=*/false, now, fx);
  }
  Agent& agent = agents_[info.id] = Agent{};
  agent.info = info;
  agent.order = next_order_++;
  agent.heard = now;
  fx.Info(absl::StrCat(Called(info), ", pid ", info.pid, ", registered with ", info.slots.size(), " slots"));
  const bool learns = !std::exchange(existed_, existed_ || HeldLayout(info).ok()) && existed_;
  if (follows() && options_.replace_timeout > 0 && replace_at_ == 0 && !may_shrink_) {
    replace_at_ = now + options_.replace_timeout;
  }
  const std::vector<plan::AgentInfo> usable = Usable(asked_, Draining::kAll, /*put_off=*/true);
  if (options_.engine.transport == kSharedMemory && usable.front().boot_id != info.boot_id) {
    fx.Warn(absl::StrCat(Called(info), " has another boot id than ", usable.front().hostname,
                         ": shared memory does not reach it, so one group cannot use both"));
  }
  grow_ = true;
  too_large_.clear();
  ForgetFailures(info.id);
  if (next_tick_ == 0) {
    last_tick_ = now;
    next_tick_ = now + TickInterval();
  }
  if (learns) followed_ = last_tick_ - now;
  if (info.drain != plan::DrainState::kNone) TakeDrain(agent, info.drain, fx);
  if (phase_ == Phase::kFailed && !impossible_) {
    phase_ = Phase::kWaitingForAgents;
    attempts_ = 0;
  }
  TryForm(now, fx);
  PlanHandover(now, fx);
}

void Membership::AgentLost(const plan::AgentId& id, const std::string& reason, TimeNs now, EffectList& fx) {
  auto it = agents_.find(id);
  if (it == agents_.end()) return;
  const std::string text = absl::StrCat(Called(it->second.info), " is gone: ", reason);
  fx.Warn(text);
  const bool member = InGroup(id);
  if (member) NoteLoss({Detection::kAgentLost, -1, id}, now);
  agents_.erase(it);
  ForgetFailures(id);
  if (member) {
    Lose(text, /*blamed=*/false, now, fx);
  } else {
    TryForm(now, fx);  // for the text of what is being waited for
    PlanHandover(now, fx);
  }
}

void Membership::Heartbeat(const plan::Heartbeat& heartbeat, TimeNs now, EffectList& fx) {
  auto it = agents_.find(heartbeat.agent);
  if (it == agents_.end() || it->second.info.incarnation != heartbeat.incarnation) {
    return Stale(plan::StalePlace::kHeartbeat);
  }
  Agent& agent = it->second;
  agent.silence = 0;
  agent.heard = now;
  if (heartbeat.epoch == epoch_) agent.ranks = heartbeat.ranks;
  if (heartbeat.drain < agent.drain()) TellDrain(agent, fx);  // it has not heard of it
  // It was told under a registration that is over, while it registered again.
  if (heartbeat.drain != plan::DrainState::kNone && agent.drain() == plan::DrainState::kNone) {
    TakeDrain(agent, heartbeat.drain, fx);
    PlanHandover(now, fx);
  }
  if (!agent.silent) return;
  agent.silent = false;
  fx.Info(absl::StrCat(Called(agent.info), " is heard again"));
  grow_ = true;
  TryForm(now, fx);
  PlanHandover(now, fx);
}

void Membership::CountSilence(TimeNs now, EffectList& fx) {
  // A late timer says something about this process, not about agents: it counts as one that came on time.
  const DurationNs counted = std::min(now - last_tick_, TickInterval());
  last_tick_ = now;
  next_tick_ = agents_.empty() ? 0 : now + TickInterval();
  std::string lost;
  bool newly = false;
  Culprit culprit{Detection::kSilent, -1, {}};
  for (auto& [id, agent] : agents_) {
    if (agent.silent) continue;
    agent.silence += counted;
    if (agent.silence < options_.heartbeat_timeout) continue;
    agent.silent = newly = true;
    fx.Warn(absl::StrCat(Called(agent.info), " has been silent for ", agent.silence / kMillisecond, " ms"));
    if (!InGroup(id)) continue;
    lost = absl::StrCat(Called(agent.info), " is silent");
    culprit.agent = id;
  }
  if (!lost.empty()) {
    NoteLoss(culprit, now);
    Lose(lost, /*blamed=*/false, now, fx);
  } else if (newly) {
    PlanHandover(now, fx);
  }
  if (!waits_for_holders()) return;
  followed_ += counted;
  TryForm(now, fx);
}

void Membership::Timer(TimeNs now, EffectList& fx) {
  if (next_tick_ != 0 && now >= next_tick_) CountSilence(now, fx);
  if (forming() && now >= deadline_) {
    std::string late;
    for (const plan::AgentId& id : GroupAgents()) {
      Agent& agent = agents_.at(id);
      if (phase_ == Phase::kJoining ? agent.joined : agent.loaded) continue;
      NoteFailure(&agent, Failure::kForGood);
      absl::StrAppend(&late, " ", Called(agent.info));
    }
    Lose(absl::StrCat(phase_ == Phase::kJoining ? "no answer to JoinGroup from" : "loading stands still on", late),
         /*blamed=*/false, now, fx);
  }
  if (replace_at_ != 0 && now >= replace_at_) {
    replace_at_ = 0;
    may_shrink_ = true;
    TryForm(now, fx);
  }
  if (retry_at_ != 0 && now >= retry_at_) {
    retry_at_ = 0;
    TryForm(now, fx);
  }
  PreloadTimer(now, fx);
}

TimeNs Membership::NextTimer() const {
  TimeNs next = 0;
  const auto at = [&next](TimeNs t) {
    if (t != 0 && (next == 0 || t < next)) next = t;
  };
  for (TimeNs t : {next_tick_, forming() ? deadline_ : 0, retry_at_, replace_at_, handover_at_}) at(t);
  for (const auto& [id, agent] : agents_) at(agent.preload.deadline);
  return next;
}

void Membership::RankExited(const core::RankExited& exited, TimeNs now, EffectList& fx) {
  const plan::RankExit& e = exited.exit;
  if (e.epoch != epoch_ || !Owns(exited.agent, e.rank)) return Stale(plan::StalePlace::kFrame);
  const std::string text =
      absl::StrCat("rank ", e.rank, " on ", agents_.at(exited.agent).info.hostname, " (pid ", e.pid, ") ", e.cause);
  fx.Warn(text);
  NoteLoss({DetectionOf(e.cause), e.rank, exited.agent}, now);
  if (forming()) NoteFailure(&agents_.at(exited.agent), FailureOf(e.cause));
  Lose(text, Blames(e.cause), now, fx);
}

void Membership::Broken(int32_t rank, const std::string& why, TimeNs now, EffectList& fx) {
  fx.Error(why);
  NoteLoss({Detection::kBroken, rank, {}}, now);
  Lose(why, /*blamed=*/true, now, fx);
}

void Membership::Stalled(int32_t rank, const std::string& why, TimeNs now, EffectList& fx) {
  fx.Error(why);
  NoteLoss({Detection::kDeadline, rank, {}}, now);
  // Where no rank is known to stand still, what is between them may: a network that is cut says nothing.
  Lose(why, /*blamed=*/rank >= 0, now, fx);
}

void Membership::NoteLoss(Culprit culprit, TimeNs now) {
  if (phase_ != Phase::kReady) return;
  before_loss_ = {};
  Fill(&before_loss_, now);
  culprit_ = std::move(culprit);
  noted_ = true;
}

void Membership::Distrusted(int32_t rank, const std::string& why, int32_t failures, TimeNs now, EffectList& fx) {
  fx.Error(why);
  caches_ = {};
  NoteLoss({Detection::kWrong, rank, {}}, now);
  // It does not get better there: whoever else can take the ranks goes first.
  for (const plan::RankAssignment& a : group_) {
    if (failures >= kCanaryFailuresElsewhere && (rank < 0 || a.rank == rank)) agents_.at(a.agent).failures = kWornOut;
  }
  retry_at_ = now + std::min(kFirstRetry << std::min(failures, 10), kLongestRetry);
  Lose(why, /*blamed=*/false, now, fx);
}

void Membership::Lose(std::string reason, bool blamed, TimeNs now, EffectList& fx) {
  if (group_.empty()) return;
  if (!std::exchange(noted_, false)) NoteLoss({}, now);
  noted_ = false;
  const bool was_forming = forming();
  if (phase_ == Phase::kReady && blamed && caution_ > 0) {
    retry_at_ = now + std::min(kFirstRetry << std::min(caution_, 10), kLongestRetry);
  }
  if (phase_ == Phase::kReady && options_.replace_timeout > 0) replace_at_ = now + options_.replace_timeout;
  if (phase_ == Phase::kReady) lost_at_ = now;
  AbortGroup(reason, fx);
  loss_ = std::move(reason);
  blamed_ = blamed;
  phase_ = Phase::kWaitingForAgents;
  detail_ = loss_;
  if (was_forming) {
    ++attempts_;
    if (!existed_ && attempts_ >= kMaxFirstAttempts) {
      return Fail(absl::StrCat("no group after ", attempts_, " attempts; the last one: ", loss_), fx);
    }
    retry_at_ = now + std::min(kFirstRetry << std::min(attempts_ - 1, 10), kLongestRetry);
  }
  TryForm(now, fx);
}

void Membership::Refused(Agent* by, std::string reason, TimeNs now, EffectList& fx) {
  if (!existed_) return Fail(std::move(reason), fx);
  fx.Warn(reason);
  NoteFailure(by, Failure::kForGood);
  if (by != nullptr) {  // others that could do it go first
    by->order = next_order_++;
    by->told.clear();
  }
  Lose(std::move(reason), /*blamed=*/false, now, fx);
}

std::string Membership::AfterFailure() const {
  return attempts_ == 0 ? std::string() : absl::StrCat(" again after: ", loss_);
}

void Membership::Fail(std::string reason, EffectList& fx) {
  if (!group_.empty()) AbortGroup(reason, fx);
  phase_ = Phase::kFailed;
  retry_at_ = 0;
  detail_ = std::move(reason);
  fx.Error(detail_);
}

void Membership::AbortGroup(const std::string& reason, EffectList& fx) {
  ++epoch_;
  epoch_unused_ = true;
  for (const plan::AgentId& id : GroupAgents()) {
    if (agents_.contains(id)) fx.control.push_back(SendAbort{id, epoch_, reason});
  }
  // Not of a failed attempt: who could not do it must not keep the place of one that comes back.
  if (phase_ == Phase::kReady) {
    previous_ = group_;
    previous_layout_ = layout_;
  }
  group_.clear();
  next_.clear();
  handover_ready_ = false;
  handover_at_ = 0;
  for (auto& [id, agent] : agents_) {
    agent.ranks.clear();
    agent.preload = {};
  }
}

}  // namespace shoal::core
