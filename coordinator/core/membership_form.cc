// Tested by: tests/core/recovery_test.cc
// How a group comes up: place ranks, join, size the cache, load.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/rng.h"
#include "coordinator/core/membership.h"
#include "coordinator/core/placement.h"
#include "coordinator/core/sizing.h"

namespace shoal::core {
namespace {

// To open the model and set up channels; and for loading, without any progress. Both far above what is ever needed on a
// slow disk: they end waits that would otherwise never end.
constexpr DurationNs kJoinDeadline = 60 * kSecond, kLoadDeadline = 120 * kSecond;

// Stream of RandomBits for the names of a group's shared segments.
constexpr uint64_t kTokenStream = 0x636f6d6d;  // "comm"

// A rank that ended while it started, or a call that found the agent busy, is Aborted.
bool MayPass(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsCancelled(status) ||
         absl::IsAborted(status);
}

}  // namespace

void Membership::TryForm(TimeNs now, EffectList& fx) {
  if (phase_ != Phase::kWaitingForAgents || retry_at_ != 0) return;
  adopting_ = false;
  const std::vector<plan::AgentInfo> usable = Usable();
  const std::string& wanted = options_.engine.transport;
  auto placed = PlaceRanks(
      usable, {options_.tp, options_.pp, options_.nnodes, previous_, /*span_hosts=*/wanted != kSharedMemory});
  if (!placed.ok()) {
    detail_ = std::string(placed.status().message());
    return;
  }
  adopting_ = HoldersMayCome(usable, *placed);
  if (adopting_) {
    detail_ = "waiting for the agents that hold the other weights";
    return;
  }
  group_ = std::move(*placed);
  uint64_t highest = options_.stored_epoch;
  for (const plan::AgentInfo& info : usable) highest = std::max(highest, info.highest_epoch);
  if (!epoch_unused_ || highest > epoch_) epoch_ = std::max(epoch_, highest) + 1;
  epoch_unused_ = false;
  phase_ = Phase::kJoining;
  deadline_ = now + kJoinDeadline;
  connecting_ = false;
  const std::vector<plan::AgentId> members = GroupAgents();
  const bool one_host = std::all_of(members.begin(), members.end(), [&](const plan::AgentId& id) {
    return agents_.at(id).info.boot_id == agents_.at(members[0]).info.boot_id;
  });
  transport_ = wanted != kAutomatic ? wanted : std::string(one_host ? kSharedMemory : kBetweenHosts);
  detail_ = absl::StrCat("joining ", ranks(), " ranks on ", members.size(), members.size() == 1 ? " agent" : " agents",
                         " over ", transport_, AfterFailure());
  fx.Info(absl::StrCat("epoch ", epoch_, ": ", detail_));

  plan::JoinGroup join;
  join.epoch = epoch_;
  join.coordinator = options_.incarnation;
  join.model = options_.model_path;
  join.revision = options_.revision;
  join.engine = options_.engine;
  join.engine.transport = transport_;
  join.tp = options_.tp;
  join.pp = options_.pp;
  join.shard_hash = shard_hash_;
  join.ranks = group_;
  join.comm_token = absl::StrCat(absl::Hex(RandomBits(options_.incarnation, kTokenStream, epoch_), absl::kZeroPad16));
  join.limits = LimitsBefore(options_);
  for (const plan::AgentId& id : members) {
    Agent& agent = agents_.at(id);
    agent.joined = agent.loaded = false;
    agent.reply = {};
    agent.progress = {};
    agent.addresses.clear();
    fx.control.push_back(SendJoin{id, join});
  }
}

bool Membership::HoldersMayCome(const std::vector<plan::AgentInfo>& usable,
                                const std::vector<plan::RankAssignment>& placed) const {
  if (groups_formed_ > 0 || attempts_ > 0 || adoption_over_) return false;
  bool some = options_.adopts || options_.stored_epoch > 0, all = true;
  for (const plan::RankAssignment& a : placed) {
    bool held = false;
    for (const plan::AgentInfo& info : usable) {
      const auto& ranks = info.held_ranks;
      some = some || !ranks.empty();
      held = held || (info.id == a.agent && std::find(ranks.begin(), ranks.end(), a.rank) != ranks.end());
    }
    all = all && held;
  }
  return some && !all;
}

void Membership::JoinAnswered(const core::JoinAnswered& answer, TimeNs now, EffectList& fx) {
  Agent* agent = Member(answer.agent, answer.epoch);
  if (agent == nullptr || phase_ != Phase::kJoining || agent->joined) return;
  const std::string who = absl::StrCat("agent ", answer.agent, " on ", agent->info.hostname);
  if (!answer.reply.ok()) {
    const std::string text = absl::StrCat(who, " could not join: ", answer.reply.status().message());
    if (!MayPass(answer.reply.status())) return Refused(agent, text, now, fx);
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
      Agent& newcomer = agent.reply.numerics_id != numerics_id_ ? agent : first;
      return Refused(
          &newcomer,
          absl::StrCat("agents would compute differently: ", first.info.hostname, " (", members[0], ") has numerics ",
                       first.reply.numerics_id, ", ", agent.info.hostname, " (", id, ") has ", agent.reply.numerics_id),
          now, fx);
    }
    ranks.insert(ranks.end(), agent.reply.ranks.begin(), agent.reply.ranks.end());
  }
  std::sort(ranks.begin(), ranks.end(), [](const auto& a, const auto& b) { return a.rank < b.rank; });
  absl::StatusOr<plan::MirrorLimits> limits = SizeCache(options_, ranks);
  if (!limits.ok()) return Refused(nullptr, std::string(limits.status().message()), now, fx);
  limits_ = *limits;
  numerics_id_ = first.reply.numerics_id;
  phase_ = Phase::kLoading;
  deadline_ = now + kLoadDeadline;
  detail_ = absl::StrCat("loading weights", AfterFailure());
  fx.Info(absl::StrCat("epoch ", epoch_, ": ", limits_.blocks, " KV blocks of ", limits_.block_size,
                       " tokens, max_model_len ", limits_.max_model_len, ", numerics ", numerics_id_));
  for (const plan::AgentId& id : members) {
    agents_.at(id).told.clear();
    fx.control.push_back(SendLoad{id, {epoch_, limits_}});
  }
  for (const plan::RankAssignment& a : group_) agents_.at(a.agent).told.push_back(a.rank);
}

void Membership::LoadAdvanced(const core::LoadAdvanced& advance, TimeNs now, EffectList& fx) {
  Agent* agent = Member(advance.progress.agent, advance.epoch);
  if (agent == nullptr || phase_ != Phase::kLoading || agent->loaded) return;
  if (const std::string wrong = Misaddressed(*agent, advance.progress); !wrong.empty()) {
    return Refused(agent, absl::StrCat("agent ", advance.progress.agent, " on ", agent->info.hostname, " ", wrong), now,
                   fx);
  }
  const bool published = !advance.progress.addresses.empty();
  if (published || advance.progress.bytes_done > agent->progress.bytes_done) deadline_ = now + kLoadDeadline;
  agent->progress = advance.progress;
  if (published) agent->addresses = std::move(agent->progress.addresses);
  agent->progress.addresses.clear();
  if (published) ConnectRanks(now, fx);
  agent->loaded = advance.progress.done;
  if (!All(&Agent::loaded)) return;
  CompareCaches();
  phase_ = Phase::kReady;
  detail_.clear();
  attempts_ = 0;
  ++groups_formed_;
  fx.Info(absl::StrCat("epoch ", epoch_, ": ready", kv_kept_ ? ", with the KV cache as it was" : ""));
}

void Membership::CompareCaches() {
  Caches now = {numerics_id_, limits_, std::vector<uint64_t>(group_.size(), 0)};
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
  if (agent == nullptr || phase_ != Phase::kLoading) return;
  const std::string text = absl::StrCat("agent ", failure.agent, " on ", agent->info.hostname,
                                        " could not load its weights: ", failure.status.message());
  if (!MayPass(failure.status)) return Refused(agent, text, now, fx);
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

std::vector<plan::AgentInfo> Membership::Usable() const {
  std::vector<const Agent*> sorted;
  for (const auto& [id, agent] : agents_) {
    if (!agent.silent) sorted.push_back(&agent);
  }
  std::sort(sorted.begin(), sorted.end(), [](const Agent* a, const Agent* b) { return a->order < b->order; });
  // Weights of another checkpoint or layout are no reason to place a rank.
  const std::string layout = absl::StrCat("/tp", options_.tp, "xpp", options_.pp, "/");
  std::vector<plan::AgentInfo> infos;
  for (const Agent* agent : sorted) {
    const std::string& held = agent->info.held_model;
    infos.push_back(agent->info);
    if (!held.starts_with(options_.revision + "/") || held.find(layout) == std::string::npos) {
      infos.back().held_ranks.clear();
    }
    if (!agent->told.empty()) infos.back().held_ranks = agent->told;
  }
  return infos;
}

void Membership::Fill(ClusterState* state, TimeNs now) const {
  state->epoch = epoch_;
  state->numerics_id = numerics_id_;
  state->transport = transport_;
  state->groups_formed = groups_formed_;
  for (const auto& [id, agent] : agents_) {
    state->agents.push_back({agent.info, now - agent.heard});
    if (!InGroup(id)) continue;
    state->load_bytes_done += agent.progress.bytes_done;
    state->load_bytes_total += agent.progress.bytes_total;
    state->load_bytes_read += agent.progress.bytes_read;
  }
  for (const plan::RankAssignment& a : group_) {
    const Agent& agent = agents_.at(a.agent);
    ClusterState::Rank rank{a.rank, a.rank % options_.tp, a.rank / options_.tp, a.agent, agent.info.hostname, {}};
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
