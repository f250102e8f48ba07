// Tested by: tests/sim/cluster_test.cc
#include "tools/sim/virtual_agent.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/sim/null_model.h"

namespace shoal::sim {
namespace {

// As in worker/agent and common/plan/wire_grpc.
constexpr DurationNs kBeatInterval = 400 * kMillisecond;
constexpr DurationNs kLongestGap = 2500 * kMillisecond;
constexpr DurationNs kPoll = 20 * kMillisecond;
constexpr DurationNs kRegisterDeadline = 5 * kSecond;
constexpr DurationNs kFirstRetry = 100 * kMillisecond, kLongestRetry = 1 * kSecond;

constexpr int64_t kModelBytes = 4000;  // spread over all ranks
constexpr int64_t kShardBytes = 1000;  // that are read for one, whatever the layout

std::string KeyOf(const plan::JoinGroup& join) {
  return absl::StrCat(join.revision, "/files/tp", join.tp, "xpp", join.pp, "/null");
}

std::vector<int32_t> RanksIn(const plan::JoinGroup& join, const plan::AgentId& agent) {
  std::vector<int32_t> ranks;
  for (const plan::RankAssignment& a : join.ranks) {
    if (a.agent == agent) ranks.push_back(a.rank);
  }
  return ranks;
}

}  // namespace

VirtualAgent::VirtualAgent(const AgentSpec& spec, uint64_t incarnation, const AgentSurroundings& around)
    : spec_(spec),
      incarnation_(incarnation),
      around_(around),
      retry_(kFirstRetry),
      highest_epoch_(spec.highest_epoch),
      weights_key_(spec.held_model),
      weights_(spec.held_ranks.begin(), spec.held_ranks.end()) {}

void VirtualAgent::Do(std::function<void()> what) {
  if (!alive_) return;
  if (frozen_) return held_.push_back(std::move(what));
  what();
}

void VirtualAgent::Troubled() { troubled_at_ = around_.world->now(); }

plan::AgentInfo VirtualAgent::Info() const {
  plan::AgentInfo info;
  info.id = spec_.id;
  info.incarnation = incarnation_;
  info.hostname = absl::StrCat("host-", spec_.boot_id);
  info.boot_id = spec_.boot_id;
  info.build_id = around_.build_id;
  info.slots.resize(spec_.slots, {"null", 1, spec_.memory_bytes});
  info.highest_epoch = highest_epoch_;
  info.held_ranks.assign(weights_.begin(), weights_.end());
  if (!weights_.empty()) info.held_model = weights_key_;
  info.drain = drain_;
  return info;
}

// --- Registration ---

void VirtualAgent::Start(bool at_once) {
  if (!at_once) return Register();
  ++attempt_;
  around_.coordinator->Register(
      shared_from_this(), Info(),
      [self = shared_from_this(), attempt = attempt_](const LinkPtr& link) { self->Registered(attempt, link); });
}

void VirtualAgent::Register() {
  if (session_ != nullptr) return;
  const auto self = shared_from_this();
  const uint64_t attempt = ++attempt_;
  const auto again = [self, attempt] {
    self->Do([self, attempt] {
      if (attempt == self->attempt_) self->Register();
    });
  };
  const DurationNs nap = retry_;
  retry_ = std::min(2 * retry_, kLongestRetry);
  VirtualCoordinator* const c = around_.coordinator;
  if (!c->up()) return around_.world->After(nap, again);  // refused
  around_.world->After(kRegisterDeadline + nap, again);
  around_.network->Send(spec_.id, Way::kToCoordinator, Network::NewStream(),
                        [self, attempt, c, nap, again, info = Info(), incarnation = c->incarnation()] {
                          // The connection is reset.
                          if (!c->up() || incarnation != c->incarnation())
                            return self->around_.world->After(nap, again);
                          c->Register(self, info, [self, attempt](const LinkPtr& link) {
                            self->around_.network->Send(
                                self->id(), Way::kToAgent, Network::NewStream(), [self, attempt, link] {
                                  self->Do([self, attempt, link] { self->Registered(attempt, link); });
                                });
                          });
                        });
}

void VirtualAgent::Registered(uint64_t attempt, const LinkPtr& link) {
  if (attempt != attempt_ || session_ != nullptr) return;
  ++attempt_;
  session_ = link;
  retry_ = kFirstRetry;
  around_.world->After(kBeatInterval, [self = shared_from_this(), link] { self->Beat(link); });
}

void VirtualAgent::Beat(const LinkPtr& link) {
  if (!alive_ || session_ != link) return;
  if (!frozen_) {
    plan::Heartbeat beat;
    beat.agent = spec_.id;
    beat.incarnation = incarnation_;
    beat.epoch = highest_epoch_;
    beat.drain = drain_;
    if (group_ != nullptr && group_->loaded) {
      for (const int32_t rank : group_->ranks) beat.ranks.push_back(group_->all->Status(rank));
    }
    VirtualCoordinator* const c = around_.coordinator;
    around_.network->Send(spec_.id, Way::kToCoordinator, link->beats, [c, link, beat] { c->Beat(link, beat); });
  }
  around_.world->After(kBeatInterval, [self = shared_from_this(), link] { self->Beat(link); });
}

void VirtualAgent::SessionEnded(const LinkPtr& link, const std::string& reason) {
  Do([self = shared_from_this(), link, reason] {
    if (self->session_ != link) return;
    self->around_.world->Trace(absl::StrCat("agent ", self->id(), " has lost the coordinator: ", reason));
    self->session_ = nullptr;
    self->EndGroup();
    VirtualCoordinator* const c = self->around_.coordinator;
    self->around_.network->Send(self->id(), Way::kToCoordinator, link->beats,
                                [c, link] { c->Lose(link, "its heartbeat stream ended"); });
    const uint64_t attempt = ++self->attempt_;
    self->around_.world->After(kFirstRetry, [self, attempt] {
      self->Do([self, attempt] {
        if (attempt == self->attempt_) self->Register();
      });
    });
  });
}

void VirtualAgent::Tell(const LinkPtr& link, const Network::StreamPtr& stream, const core::Event& event) {
  VirtualCoordinator* const c = around_.coordinator;
  around_.network->Send(spec_.id, Way::kToCoordinator, stream, [c, link, event] { c->Deliver(link, event); });
}

// --- The group ---

absl::Status VirtualAgent::Enter(uint64_t epoch, bool joining) {
  if (epoch < highest_epoch_ || (joining && epoch <= joined_epoch_)) {
    return absl::AbortedError(absl::StrCat("epoch ", epoch, " is over"));
  }
  highest_epoch_ = epoch;
  if (joining) joined_epoch_ = epoch;
  if (group_ != nullptr && group_->join.epoch < epoch) EndGroup();
  return absl::OkStatus();
}

void VirtualAgent::EndGroup() {
  if (group_ == nullptr) return;
  if (group_->loaded) {
    for (const int32_t rank : group_->ranks) group_->all->Kill(rank);
  }
  group_.reset();
}

void VirtualAgent::Join(const LinkPtr& link, const plan::JoinGroup& join) {
  Do([self = shared_from_this(), link, join] {
    if (absl::Status entered = self->Enter(join.epoch, true); !entered.ok()) {
      return self->Tell(link, Network::NewStream(), core::JoinAnswered{self->id(), join.epoch, entered});
    }
    self->EndGroup();
    self->around_.world->After(self->around_.world->Between(0, self->around_.times.join),
                               [self, link, join] { self->Do([self, link, join] { self->AnswerJoin(link, join); }); });
  });
}

void VirtualAgent::AnswerJoin(const LinkPtr& link, const plan::JoinGroup& join) {
  absl::StatusOr<plan::JoinReply> answer = plan::JoinReply{};
  if (!spec_.join_error.ok()) {
    answer = spec_.join_error;
    Troubled();
  } else if (join.epoch != highest_epoch_) {
    answer = absl::AbortedError(absl::StrCat("epoch ", join.epoch, " was over before its group had formed"));
  } else {
    group_ = std::make_shared<Group>();
    group_->link = link;
    group_->join = join;
    if (weights_key_ == KeyOf(join)) group_->held = weights_;
    group_->ranks = RanksIn(join, spec_.id);
    answer = Reply(join);
  }
  Tell(link, Network::NewStream(), core::JoinAnswered{spec_.id, join.epoch, answer});
}

plan::JoinReply VirtualAgent::Reply(const plan::JoinGroup& join) const {
  plan::JoinReply reply;
  reply.numerics_id = spec_.numerics_id;
  const int64_t weights = kModelBytes / (join.tp * join.pp);
  for (const int32_t rank : RanksIn(join, spec_.id)) {
    const bool held = weights_key_ == KeyOf(join) && Holds(rank);
    reply.ranks.push_back({rank, weights, held ? 0 : weights, spec_.kv_bytes_per_block, spec_.memory_bytes});
  }
  return reply;
}

void VirtualAgent::KeepOnly(const plan::JoinGroup& join) {
  const std::string key = KeyOf(join);
  if (std::exchange(weights_key_, key) != key) weights_.clear();
  const std::vector<int32_t> wanted = RanksIn(join, spec_.id);
  std::erase_if(weights_, [&](int32_t rank) { return std::find(wanted.begin(), wanted.end(), rank) == wanted.end(); });
}

void VirtualAgent::LoadFails(const GroupPtr& group, const absl::Status& why) {
  group->failed = true;
  Tell(group->link, group->progress, core::LoadFailed{spec_.id, group->join.epoch, why});
}

void VirtualAgent::Load(const LinkPtr& link, const plan::LoadModel& load) {
  Do([self = shared_from_this(), link, load] {
    const GroupPtr group = self->group_;
    if (group == nullptr || group->join.epoch != load.epoch) {
      const absl::Status why = absl::AbortedError(absl::StrCat("there is no group of epoch ", load.epoch, " here"));
      return self->Tell(link, Network::NewStream(), core::LoadFailed{self->id(), load.epoch, why});
    }
    if (std::exchange(group->load_begun, true)) {
      return self->LoadFails(group, absl::FailedPreconditionError("the group has been loaded before"));
    }
    if (!self->spec_.load_error.ok()) {
      self->Troubled();
      return self->LoadFails(group, self->spec_.load_error);
    }
    self->KeepOnly(group->join);
    std::erase_if(self->caches_, [&](const auto& entry) {
      return std::find(group->ranks.begin(), group->ranks.end(), entry.first) == group->ranks.end();
    });
    self->ReadNext(group, load, 0);
  });
}

// Shards that were read are kept, also when the group ends meanwhile.
void VirtualAgent::ReadNext(const GroupPtr& group, const plan::LoadModel& load, size_t next) {
  if (group != group_) return;
  while (next < group->ranks.size() && Holds(group->ranks[next])) ++next;
  if (next == group->ranks.size()) return StartRanks(group, load);
  const int32_t rank = group->ranks[next];
  around_.on_read(*this, rank);
  bytes_read_ += kShardBytes;
  group->bytes_read += kShardBytes;
  const DurationNs takes = around_.world->Between(around_.times.read / 4, around_.times.read);
  const auto self = shared_from_this();
  const auto done = [self, group, load, next, rank] {
    self->Do([self, group, load, next, rank] {
      if (group == self->group_) self->weights_.insert(rank);
      self->ReadNext(group, load, next + 1);
    });
  };
  if (takes == 0) return done();
  around_.world->After(takes, done);
}

std::shared_ptr<Cache> VirtualAgent::CacheOf(int32_t rank, const plan::MirrorLimits& limits, uint64_t coordinator) {
  std::shared_ptr<Cache>& cache = caches_[rank];
  const auto slots = static_cast<size_t>(limits.blocks) * limits.block_size;
  if (cache == nullptr || cache->tokens.size() != slots) {
    cache = std::make_shared<Cache>();
    cache->tokens.assign(slots, kGarbage);
  }
  if (cache->coordinator != coordinator) cache->id = ++*around_.cache_ids;
  cache->coordinator = coordinator;
  return cache;
}

void VirtualAgent::StartRanks(const GroupPtr& group, const plan::LoadModel& load) {
  group->starting = true;
  group->limits = load.limits;
  const plan::LoadProgress progress{spec_.id, 500, 1000, false, false, 500, {}, {}};
  Tell(group->link, group->progress, core::LoadAdvanced{load.epoch, progress});
  const bool publishes = group->join.engine.transport != "shm";
  const auto started = [self = shared_from_this(), group, publishes] {
    publishes ? self->Publish(group) : self->RanksStarted(group);
  };
  around_.world->After(around_.world->Between(0, around_.times.start),
                       [self = shared_from_this(), started] { self->Do(started); });
}

// Its ranks wait until they know the addresses of all.
void VirtualAgent::Publish(const GroupPtr& group) {
  if (group != group_ || group->failed) return;
  group->published = true;
  plan::LoadProgress progress{spec_.id, 1000, 1000, false, false, 1000, {}, {}};
  for (const int32_t rank : group->ranks) progress.addresses.push_back({rank, absl::StrCat("rank ", rank)});
  Tell(group->link, group->progress, core::LoadAdvanced{group->join.epoch, progress});
}

void VirtualAgent::Connect(const LinkPtr& link, const plan::ConnectRanks& connect) {
  Do([self = shared_from_this(), link, connect] {
    const GroupPtr group = self->group_;
    if (group == nullptr || group->join.epoch != connect.epoch) {
      const absl::Status why = absl::AbortedError(absl::StrCat("there is no group of epoch ", connect.epoch, " here"));
      return self->Tell(link, Network::NewStream(), core::LoadFailed{self->id(), connect.epoch, why});
    }
    if (!group->published || std::exchange(group->connected, true)) {
      return self->LoadFails(group, absl::FailedPreconditionError("nobody waits for addresses here"));
    }
    self->around_.world->After(self->around_.world->Between(0, self->around_.times.start),
                               [self, group] { self->Do([self, group] { self->RanksStarted(group); }); });
  });
}

void VirtualAgent::RanksStarted(const GroupPtr& group) {
  if (group != group_ || group->failed) return;
  const uint64_t coordinator = group->join.coordinator;
  group->starting = false;
  group->loaded = true;
  group->mirror.emplace(group->limits);
  group->all = around_.ranks_of(group->join);
  plan::LoadProgress done{spec_.id, 1000, 1000, true, group->bytes_read == 0, group->bytes_read, {}, {}};
  const auto self = shared_from_this();
  for (const int32_t rank : group->ranks) {
    const std::shared_ptr<Cache> cache = CacheOf(rank, group->limits, coordinator);
    done.caches.push_back({rank, cache->id});
    group->all->Attach(rank, {cache, [self, group](const plan::StepResult& r) { self->Answer(group, r); },
                              [self, rank](const std::string& cause) { self->KillRank(rank, cause); }});
  }
  Tell(group->link, group->progress, core::LoadAdvanced{group->join.epoch, done});
}

// Reads for a group to come, beside whatever runs here; an epoch that comes meanwhile ends it.
void VirtualAgent::Preload(const LinkPtr& link, const plan::JoinGroup& join) {
  Do([self = shared_from_this(), link, join] {
    const bool reads = RanksIn(join, self->id()) != self->Ranks();  // else it keeps what it needs, and the rest goes
    self->preloads_ += reads ? 1 : 0;
    const auto stream = Network::NewStream();
    absl::Status why = self->spec_.preload_error;
    why.Update(self->Enter(join.epoch, false));
    if (!why.ok()) return self->Tell(link, stream, core::PreloadFailed{self->id(), join.epoch, why});
    if (!reads) return self->Preloaded(link, stream, join);
    const plan::LoadProgress begun{self->id(), 500, 1000, false, false, 500, {}, {}};
    self->Tell(link, stream, core::PreloadAdvanced{join.epoch, begun, {}});
    self->around_.world->After(self->spec_.preload_takes, [self, link, stream, join] {
      self->Do([self, link, stream, join] { self->Preloaded(link, stream, join); });
    });
  });
}

void VirtualAgent::Preloaded(const LinkPtr& link, const Network::StreamPtr& stream, const plan::JoinGroup& join) {
  if (join.epoch < highest_epoch_) return;
  KeepOnly(join);
  const plan::JoinReply reply = Reply(join);
  int64_t read = 0;
  for (const int32_t rank : RanksIn(join, spec_.id)) {
    read += weights_.insert(rank).second ? kShardBytes : 0;  // although another one has them: it shall go
  }
  bytes_read_ += read;
  const plan::LoadProgress done{spec_.id, 1000, 1000, true, read == 0, read, {}, {}};
  Tell(link, stream, core::PreloadAdvanced{join.epoch, done, reply});
}

void VirtualAgent::Plan(const std::shared_ptr<const plan::StepPlan>& plan) {
  Do([self = shared_from_this(), plan] {
    const GroupPtr group = self->group_;
    if (group == nullptr || !group->loaded || group->join.epoch != plan->stamp.epoch) return;
    if (group->join.coordinator != plan->stamp.incarnation) return;
    const auto resolved = Resolve(*plan, *group->mirror);
    if (!resolved.ok()) return self->around_.world->Problem(resolved.status().ToString());
    for (const int32_t rank : group->ranks) group->all->Arrive(rank, *resolved);
  });
}

void VirtualAgent::Answer(const GroupPtr& group, const plan::StepResult& result) {
  Do([self = shared_from_this(), group, result] {
    if (group != self->group_) return;
    const core::StepAnswered answer{self->id(), result};
    self->Tell(group->link, group->answers, answer);
    if (*self->around_.repeat_answers) self->Tell(group->link, group->answers, answer);
  });
}

void VirtualAgent::Abort(uint64_t epoch) {
  Do([self = shared_from_this(), epoch] { self->Enter(epoch, false).IgnoreError(); });
}

void VirtualAgent::Drain(uint64_t epoch, plan::DrainState state) {
  Do([self = shared_from_this(), epoch, state] {
    if (epoch >= self->highest_epoch_) self->drain_ = std::max(self->drain_, state);
  });
}

std::vector<int32_t> VirtualAgent::Ranks() const { return group_ == nullptr ? std::vector<int32_t>{} : group_->ranks; }

// --- Faults ---

bool VirtualAgent::KillRank(int32_t rank, const std::string& cause) {
  const GroupPtr group = group_;
  if (group == nullptr || std::find(group->ranks.begin(), group->ranks.end(), rank) == group->ranks.end()) return false;
  const auto self = shared_from_this();
  if (group->starting && !group->failed) {
    group->failed = true;
    Do([self, group, rank, cause] {
      if (group == self->group_) self->LoadFails(group, absl::AbortedError(absl::StrCat("rank ", rank, " ", cause)));
    });
    return true;
  }
  if (!group->loaded || !group->all->lives(rank)) return false;
  group->all->Kill(rank);
  Do([self, group, rank, cause] {
    if (group != self->group_) return;
    self->Tell(group->link, group->answers, core::RankExited{self->id(), {rank, 4711, group->join.epoch, cause}});
  });
  return true;
}

void VirtualAgent::Die() {
  EndGroup();
  alive_ = false;
  session_ = nullptr;
  held_.clear();
}

void VirtualAgent::Freeze(bool ranks_too) {
  Troubled();
  if (!std::exchange(frozen_, true)) frozen_at_ = around_.world->now();
  if (!ranks_too || group_ == nullptr || !group_->loaded) return;
  for (const int32_t rank : group_->ranks) group_->all->Freeze(rank, true);
}

void VirtualAgent::Thaw() {
  if (!alive_ || !std::exchange(frozen_, false)) return;
  Troubled();
  if (group_ != nullptr && group_->loaded) {
    for (const int32_t rank : group_->ranks) group_->all->Freeze(rank, false);
  }
  for (const auto& what : std::exchange(held_, {})) Do(what);
  if (around_.world->now() - frozen_at_ <= kLongestGap || session_ == nullptr) return;
  around_.world->After(around_.world->Between(0, kPoll), [self = shared_from_this(), link = session_] {
    self->SessionEnded(link, "this agent stood still");
  });
}

}  // namespace shoal::sim
