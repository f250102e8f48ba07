// Tested by: tests/core/recovery_test.cc
// How a group comes up: place ranks, join, size the cache, load.
#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/rng.h"
#include "coordinator/core/membership.h"
#include "coordinator/core/sizing.h"

namespace shoal::core {
namespace {

// To open the model and set up channels; and for loading, without any progress. Both far above what is ever needed on a
// slow disk: they end waits that would otherwise never end.
constexpr DurationNs kJoinDeadline = 60 * kSecond, kLoadDeadline = 120 * kSecond;

// Attempts of one outage whose progress is waited for. What fails later fails again, and requests have waited enough.
constexpr int32_t kMaxSlowAttempts = 5;

// Stream of RandomBits for the names of a group's shared segments.
constexpr uint64_t kTokenStream = 0x636f6d6d;  // "comm"

// A rank that ended while it started, or a call that found the agent busy, is Aborted.
bool MayPass(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsCancelled(status) ||
         absl::IsAborted(status);
}

}  // namespace

std::string Membership::TransportOf(const std::vector<plan::RankAssignment>& ranks) const {
  if (options_.engine.transport != kAutomatic) return options_.engine.transport;
  if (options_.engine.device == kCudaDevice && ranks.size() > 1) return std::string(kBetweenDevices);
  const auto boot_id = [&](const plan::RankAssignment& a) { return agents_.at(a.agent).info.boot_id; };
  const bool one_host =
      std::all_of(ranks.begin(), ranks.end(), [&](const auto& a) { return boot_id(a) == boot_id(ranks[0]); });
  return std::string(one_host ? kSharedMemory : kBetweenHosts);
}

plan::JoinGroup Membership::MakeJoin(const std::vector<plan::RankAssignment>& ranks) const {
  plan::JoinGroup join;
  join.epoch = epoch_;
  join.coordinator = options_.incarnation;
  join.model = options_.model_path;
  join.revision = options_.revision;
  join.engine = options_.engine;
  join.engine.transport = TransportOf(ranks);
  join.tp = layout_.tp;
  join.pp = layout_.pp;
  const absl::StatusOr<plan::ShardPlan> shards = plan::MakeShardPlan(options_.model, layout_.tp, layout_.pp);
  SHOAL_CHECK(shards.ok());  // else the layout would not have been chosen
  join.shard_hash = shards->Hash();
  join.ranks = ranks;
  join.comm_token = absl::StrCat(absl::Hex(RandomBits(options_.incarnation, kTokenStream, epoch_), absl::kZeroPad16));
  join.limits = LimitsBefore(options_);
  return join;
}

absl::StatusOr<plan::MirrorLimits> Membership::Size(const std::vector<plan::JoinReply::Rank>& ranks) const {
  return SizeCache(options_, ranks, layout_ == asked_ ? Demand::kExact : Demand::kAtMost);
}

void Membership::TryForm(TimeNs now, EffectList& fx) {
  if (phase_ != Phase::kWaitingForAgents || retry_at_ != 0) return;
  absl::StatusOr<PlacedLayout> place = ChoosePlace();
  if (!place.ok()) {
    detail_ = std::string(place.status().message());
  } else if (adoption_lasts() && WhereHeld(asked_).empty()) {
    detail_ = "waiting for the agents that hold the other weights";
  } else {
    Form(*std::move(place), now, fx);
  }
}

void Membership::Form(PlacedLayout place, TimeNs now, EffectList& fx) {
  layout_ = place.layout;
  group_ = std::move(place.ranks);
  uint64_t highest = options_.stored_epoch;
  for (const auto& [id, agent] : agents_) highest = std::max(highest, agent.info.highest_epoch);
  if (!epoch_unused_ || highest > epoch_) epoch_ = std::max(epoch_, highest) + 1;
  epoch_unused_ = false;
  phase_ = Phase::kJoining;
  deadline_ = now + kJoinDeadline;
  connecting_ = false;
  const std::vector<plan::AgentId> members = GroupAgents();
  transport_ = TransportOf(group_);
  detail_ = absl::StrCat("joining ", ranks(), " ranks on ", members.size(), members.size() == 1 ? " agent" : " agents",
                         " over ", transport_, AfterFailure());
  fx.Info(absl::StrCat("epoch ", epoch_, ": ", detail_));
  if (!(layout_ == asked_)) {
    fx.Warn(absl::StrCat("there are no agents for ", LayoutText(asked_), ": the group is formed with ",
                         LayoutText(layout_)));
  }
  const plan::JoinGroup join = MakeJoin(group_);
  for (const plan::AgentId& id : members) {
    Agent& agent = agents_.at(id);
    agent.joined = agent.loaded = false;
    agent.reply = {};
    agent.progress = {};
    agent.addresses.clear();
    fx.control.push_back(SendJoin{id, join});
  }
}

void Membership::JoinAnswered(const core::JoinAnswered& answer, TimeNs now, EffectList& fx) {
  Agent* agent = Member(answer.agent, answer.epoch);
  if (agent == nullptr || phase_ != Phase::kJoining || agent->joined) return Stale(plan::StalePlace::kReply);
  const std::string who = absl::StrCat("agent ", answer.agent, " on ", agent->info.hostname);
  if (!answer.reply.ok()) {
    const std::string text = absl::StrCat(who, " could not join: ", answer.reply.status().message());
    if (!MayPass(answer.reply.status())) return Refused(agent, text, now, fx);
    NoteFailure(agent, FailureOf(std::string(answer.reply.status().message())));
    fx.Warn(text);
    return Lose(text, /*blamed=*/false, now, fx);
  }
  std::vector<int32_t> named;
  for (const plan::JoinReply::Rank& r : answer.reply->ranks) named.push_back(r.rank);
  std::sort(named.begin(), named.end());
  if (named != RanksOf(answer.agent)) {
    return Refused(agent, absl::StrCat(who, " answered for other ranks than its own"), now, fx);
  }
  agent->reply = *answer.reply;
  agent->joined = true;
  if (All(&Agent::joined)) AllJoined(now, fx);
}

void Membership::AllJoined(TimeNs now, EffectList& fx) {
  std::vector<plan::JoinReply::Rank> ranks;
  const std::vector<plan::AgentId> members = GroupAgents();
  Agent& first = agents_.at(members[0]);
  for (const plan::AgentId& id : members) {
    Agent& agent = agents_.at(id);
    if (agent.reply.numerics_id != first.reply.numerics_id) {
      Agent& newcomer = agent.reply.numerics_id != ready_numerics_ ? agent : first;
      return Refused(
          &newcomer,
          absl::StrCat("agents would compute differently: ", first.info.hostname, " (", members[0], ") has numerics ",
                       first.reply.numerics_id, ", ", agent.info.hostname, " (", id, ") has ", agent.reply.numerics_id),
          now, fx);
    }
    ranks.insert(ranks.end(), agent.reply.ranks.begin(), agent.reply.ranks.end());
  }
  std::sort(ranks.begin(), ranks.end(), [](const auto& a, const auto& b) { return a.rank < b.rank; });
  absl::StatusOr<plan::MirrorLimits> limits = Size(ranks);
  if (!limits.ok()) {
    too_large_.push_back(layout_);
    const int32_t tightest = TightestRank(options_, ranks);
    Agent* const by = tightest >= 0 ? &agents_.at(group_[tightest].agent) : nullptr;
    return Refused(by, std::string(limits.status().message()), now, fx);
  }
  limits_ = *limits;
  numerics_id_ = first.reply.numerics_id;
  phase_ = Phase::kLoading;
  deadline_ = now + kLoadDeadline;
  detail_ = absl::StrCat("loading weights", AfterFailure());
  fx.Info(absl::StrCat("epoch ", epoch_, ": ", limits_.blocks, " KV blocks of ", limits_.block_size,
                       " tokens, max_model_len ", limits_.max_model_len, ", numerics ", numerics_id_));
  for (const plan::AgentId& id : members) {
    // A load that is called off before it began drops nothing of what was read before.
    Agent& agent = agents_.at(id);
    std::vector<int32_t> told = RanksOf(id);
    if (agent.told_layout == layout_) {
      std::copy_if(agent.told.begin(), agent.told.end(), std::back_inserter(told),
                   [own = told](int32_t rank) { return std::find(own.begin(), own.end(), rank) == own.end(); });
    }
    agent.told = std::move(told);
    agent.told_layout = layout_;
    fx.control.push_back(SendLoad{id, {epoch_, limits_}});
  }
}

void Membership::LoadAdvanced(const core::LoadAdvanced& advance, TimeNs now, EffectList& fx) {
  Agent* agent = Member(advance.progress.agent, advance.epoch);
  if (agent == nullptr || phase_ != Phase::kLoading || agent->loaded) return Stale(plan::StalePlace::kReply);
  if (const std::string wrong = Misaddressed(*agent, advance.progress); !wrong.empty()) {
    return Refused(agent, absl::StrCat("agent ", advance.progress.agent, " on ", agent->info.hostname, " ", wrong), now,
                   fx);
  }
  agent->told = RanksOf(advance.progress.agent);  // now all else is gone
  const bool published = !advance.progress.addresses.empty();
  if (published || advance.progress.bytes_done > agent->progress.bytes_done) {
    deadline_ = now + kLoadDeadline;
    if (attempts_ < kMaxSlowAttempts) ++load_steps_;
  }
  agent->progress = advance.progress;
  if (published) agent->addresses = std::move(agent->progress.addresses);
  agent->progress.addresses.clear();
  if (published) ConnectRanks(now, fx);
  agent->loaded = advance.progress.done;
  if (!All(&Agent::loaded)) return;
  Ready(now, fx);
  PlanHandover(now, fx);
}

void Membership::Ready(TimeNs now, EffectList& fx) {
  CompareCaches();
  phase_ = Phase::kReady;
  detail_.clear();
  attempts_ = 0;
  replace_at_ = 0;
  may_shrink_ = growing_ = false;
  too_large_.clear();
  tried_.clear();
  reformed_ = groups_formed_ > 0 && !(layout_ == previous_layout_ && numerics_id_ == ready_numerics_);
  ready_numerics_ = numerics_id_;
  existed_ = true;
  reforms_ += reformed_ ? 1 : 0;
  ++groups_formed_;
  const TimeNs lost_at = std::exchange(lost_at_, 0);
  fx.Info(
      absl::StrCat("epoch ", epoch_, ": ready",
                   lost_at != 0 ? absl::StrCat(" again ", (now - lost_at) / kMillisecond, " ms after the loss") : "",
                   kv_kept_ ? ", with the KV cache as it was" : ""));
  for (auto& [id, agent] : agents_) {
    agent.failures = 0;
    if (InGroup(id)) agent.preloaded = false;
    const bool served = std::exchange(agent.served, InGroup(id));
    if (!agent.draining || InGroup(id)) continue;
    // The group is smaller for want of it, and needs it to be whole again.
    if (layout_ != asked_ && !(served && layout_ == previous_layout_)) continue;
    agent.draining = false;
    agent.drained = true;
    TellDrain(agent, fx);
    fx.Info(absl::StrCat("agent ", id, " on ", agent.info.hostname, " is drained: it may be stopped"));
  }
}

void Membership::CompareCaches() {
  Caches now = {numerics_id_, layout_, limits_, std::vector<uint64_t>(group_.size(), 0)};
  for (const plan::RankAssignment& a : group_) {
    for (const plan::LoadProgress::Cache& cache : agents_.at(a.agent).progress.caches) {
      if (cache.rank == a.rank) now.ids[a.rank] = cache.id;
    }
  }
  kv_kept_ = groups_formed_ > 0 && now == caches_ && std::find(now.ids.begin(), now.ids.end(), 0u) == now.ids.end();
  caches_ = std::move(now);
}

std::string Membership::Misaddressed(const Agent& agent, const plan::LoadProgress& progress) const {
  if (!needs_addresses()) return progress.addresses.empty() ? "" : "published addresses, which nobody needs";
  if (progress.done && !connecting_) return "says that its ranks are ready before they could connect";
  if (progress.addresses.empty()) return "";
  if (!agent.addresses.empty()) return "published its ranks' addresses twice";
  std::vector<int32_t> named;
  for (const plan::RankAddress& a : progress.addresses) named.push_back(a.rank);
  std::sort(named.begin(), named.end());
  return named == RanksOf(agent.info.id) ? "" : "published addresses of other ranks than its own";
}

void Membership::ConnectRanks(TimeNs now, EffectList& fx) {
  plan::ConnectRanks connect{epoch_, options_.incarnation, {}};
  for (const plan::AgentId& id : GroupAgents()) {
    const std::vector<plan::RankAddress>& published = agents_.at(id).addresses;
    if (published.empty()) return;
    connect.ranks.insert(connect.ranks.end(), published.begin(), published.end());
  }
  std::sort(connect.ranks.begin(), connect.ranks.end(), [](const auto& a, const auto& b) { return a.rank < b.rank; });
  connecting_ = true;
  deadline_ = now + kLoadDeadline;
  detail_ = absl::StrCat("connecting ranks over ", transport_, AfterFailure());
  for (const plan::AgentId& id : GroupAgents()) fx.control.push_back(SendConnect{id, connect});
}

void Membership::LoadFailed(const core::LoadFailed& failure, TimeNs now, EffectList& fx) {
  Agent* agent = Member(failure.agent, failure.epoch);
  if (agent == nullptr || phase_ != Phase::kLoading) return Stale(plan::StalePlace::kReply);
  const std::string text = absl::StrCat("agent ", failure.agent, " on ", agent->info.hostname,
                                        " could not load its weights: ", failure.status.message());
  if (!MayPass(failure.status)) return Refused(agent, text, now, fx);
  NoteFailure(agent, FailureOf(std::string(failure.status.message())));
  fx.Warn(text);
  Lose(text, /*blamed=*/false, now, fx);
}

Membership::Agent* Membership::Member(const plan::AgentId& id, uint64_t epoch) {
  if (epoch != epoch_ || !InGroup(id)) return nullptr;
  return &agents_.at(id);
}

bool Membership::InGroup(const plan::AgentId& id) const {
  return std::any_of(group_.begin(), group_.end(), [&](const plan::RankAssignment& a) { return a.agent == id; });
}

bool Membership::Owns(const plan::AgentId& agent, int32_t rank) const {
  return rank >= 0 && rank < static_cast<int32_t>(group_.size()) && group_[rank].agent == agent;
}

std::vector<int32_t> Membership::RanksOf(const plan::AgentId& agent) const {
  std::vector<int32_t> ranks;
  for (const plan::RankAssignment& a : group_) {
    if (a.agent == agent) ranks.push_back(a.rank);
  }
  return ranks;
}

std::vector<plan::AgentId> Membership::GroupAgents() const {
  std::vector<plan::AgentId> ids;
  for (const plan::RankAssignment& a : group_) {
    if (std::find(ids.begin(), ids.end(), a.agent) == ids.end()) ids.push_back(a.agent);
  }
  return ids;
}

bool Membership::All(bool Agent::*flag) const {
  return std::all_of(group_.begin(), group_.end(),
                     [&](const plan::RankAssignment& a) { return agents_.at(a.agent).*flag; });
}

void Membership::Fill(ClusterState* state, TimeNs now) const {
  state->epoch = epoch_;
  state->numerics_id = numerics_id_;
  state->transport = transport_;
  state->groups_formed = groups_formed_;
  state->reforms = reforms_;
  state->stale = stale_;
  state->layout = layout_;
  state->asked = asked_;
  for (const auto& [id, agent] : agents_) {
    state->agents.push_back({agent.info, now - agent.heard, StateOf(id), agent.draining ? handover_ : std::string()});
    if (!InGroup(id)) continue;
    state->load_bytes_done += agent.progress.bytes_done;
    state->load_bytes_total += agent.progress.bytes_total;
    state->load_bytes_read += agent.progress.bytes_read;
  }
  for (const plan::RankAssignment& a : group_) {
    const Agent& agent = agents_.at(a.agent);
    ClusterState::Rank rank{a.rank, a.rank % layout_.tp, a.rank / layout_.tp, a.agent, agent.info.hostname, {}};
    rank.status.rank = a.rank;
    for (const plan::RankStatus& status : agent.ranks) {
      if (status.rank == a.rank) rank.status = status;
    }
    state->ranks.push_back(std::move(rank));
  }
}

void Membership::CheckInvariants() const {
  const bool has_group = phase_ != Phase::kWaitingForAgents && phase_ != Phase::kFailed;
  SHOAL_CHECK(group_.empty() == !has_group);
  SHOAL_CHECK(group_.empty() || static_cast<int32_t>(group_.size()) == ranks());
  for (size_t i = 0; i < group_.size(); ++i) {
    SHOAL_CHECK(group_[i].rank == static_cast<int32_t>(i));
    const Agent& agent = agents_.at(group_[i].agent);
    SHOAL_CHECK(!agent.silent && agent.info.highest_epoch <= epoch_);
    SHOAL_CHECK(group_[i].slot >= 0 && group_[i].slot < static_cast<int32_t>(agent.info.slots.size()));
    SHOAL_CHECK(phase_ == Phase::kJoining || agent.joined);
    SHOAL_CHECK(phase_ != Phase::kReady || agent.loaded);
    SHOAL_CHECK(phase_ != Phase::kReady || !needs_addresses() || (connecting_ && !agent.addresses.empty()));
    for (size_t j = 0; j < i; ++j) SHOAL_CHECK(group_[i].agent != group_[j].agent || group_[i].slot != group_[j].slot);
  }
  SHOAL_CHECK(agents_.empty() || next_tick_ != 0);
}

}  // namespace shoal::core
