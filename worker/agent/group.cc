// Tested by: tests/agent/agent_test.cc
#include "worker/agent/group.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/plan/wire_grpc.h"
#include "worker/agent/loader.h"
#include "worker/comm/shm.h"
#include "worker/kv/kv_cache.h"

namespace shoal::agent {
namespace {

// How late a rank's death or the group's end may be noticed while addresses are awaited.
constexpr auto kConnectPoll = std::chrono::milliseconds(10);
// Steps of a rank that follows one whose device has failed. What has failed is executed again at once, in the first of
// them; a fault that comes with a longer sequence or another batch has some more.
constexpr int32_t kCheckedSteps = 256;

}  // namespace

absl::StatusOr<std::shared_ptr<Group>> Group::Join(const plan::JoinGroup& join, const GroupContext& context,
                                                   plan::JoinReply* reply) {
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<Joined> joined, ResolveJoin(join, context.self, context.cuda));
  SHOAL_ASSIGN_OR_RETURN(*reply, ReplyTo(*joined, *context.shelf));
  Channels channels;
  if (joined->transport == comm::Transport::kShm && !joined->alone && joined->has_first_rank) {
    const size_t bytes = comm::ShmSegmentBytes(rank::ChannelShape(joined->files.config, join.limits, join.tp, join.pp));
    SHOAL_ASSIGN_OR_RETURN(channels, Channels::CreateNamed(join.comm_token, bytes));
  }
  std::shared_ptr<Group> group(new Group(std::move(joined), context));
  MutexLock lock(group->channels_mutex_);
  group->channels_ = std::move(channels);
  return group;
}

Group::Group(std::unique_ptr<Joined> joined, const GroupContext& context)
    : epoch_(joined->join.epoch),
      coordinator_(joined->join.coordinator),
      context_(context),
      joined_(std::move(joined)),
      ranks_(context.rank_binary, context.log_directory, epoch_, &outbox_, {context.stale, context.faults}) {}

Group::~Group() { End(absl::CancelledError("the group has ended")); }

// The join's have been checked and have sized the channels. A cache with room for less than the model's length shortens
// it.
absl::Status Group::CheckLimits(const plan::MirrorLimits& limits) const {
  SHOAL_RETURN_IF_ERROR(plan::CheckLimits(limits));
  plan::MirrorLimits agreed = joined_->join.limits;
  agreed.blocks = limits.blocks;
  agreed.max_model_len = std::min(agreed.max_model_len, limits.max_model_len);
  if (agreed == limits) return absl::OkStatus();
  return absl::InvalidArgumentError("the limits have changed between JoinGroup and LoadModel");
}

absl::Status Group::OpenChannels(const plan::MirrorLimits& limits) {
  const plan::JoinGroup& join = joined_->join;
  const size_t bytes = comm::ShmSegmentBytes(rank::ChannelShape(joined_->files.config, limits, join.tp, join.pp));
  MutexLock lock(channels_mutex_);
  if (!shares_memory()) {
    // Ranks map all that they inherit.
    SHOAL_ASSIGN_OR_RETURN(channels_, Channels::Anonymous(1));
  } else if (joined_->alone) {
    SHOAL_ASSIGN_OR_RETURN(channels_, Channels::Anonymous(bytes));
  } else if (!joined_->has_first_rank) {
    SHOAL_ASSIGN_OR_RETURN(channels_, Channels::OpenNamed(join.comm_token, bytes));
  }
  return absl::OkStatus();
}

absl::StatusOr<const Shelf::KvRegion*> Group::KvRegion(const LocalRank& local, int64_t bytes) {
  if (joined_->cuda == nullptr) return context_.shelf->Kv(local.rank, static_cast<size_t>(bytes), coordinator_);
  const auto make = [&](size_t size) -> absl::StatusOr<device::SharedMemory> {
    auto memory = joined_->cuda->makers().KvCache(local.device, static_cast<int64_t>(size));
    if (memory.ok()) return memory;
    return absl::Status(memory.status().code(), absl::StrCat("the KV cache of rank ", local.rank, " on CUDA device ",
                                                             local.device, ": ", memory.status().message()));
  };
  return context_.shelf->Kv({local.rank, local.device}, static_cast<size_t>(bytes), coordinator_, make);
}

std::string Group::RankName(int32_t rank) const { return absl::StrCat(context_.self.id, "-rank", rank); }

absl::StatusOr<std::vector<RankSpec>> Group::MakeSpecs(const plan::MirrorLimits& limits,
                                                       std::vector<plan::LoadProgress::Cache>* caches) {
  const plan::JoinGroup& join = joined_->join;
  std::vector<RankSpec> specs;
  for (const LocalRank& local : joined_->ranks) {
    const kv::KvShape shape =
        kv::MakeKvShape(local.shard, joined_->files.config, joined_->numerics.kv, limits.block_size, limits.blocks);
    SHOAL_ASSIGN_OR_RETURN(const Shelf::KvRegion* kv, KvRegion(local, kv::RegionBytes(shape)));
    const device::SharedMemory& weights = *context_.shelf->Weights(joined_->weights_key, local.rank, local.device);
    RankSpec spec;
    spec.setup = {.rank = local.rank,
                  .tp = join.tp,
                  .pp = join.pp,
                  .epoch = epoch_,
                  .coordinator = coordinator_,
                  .model = joined_->files.config,
                  .engine = join.engine,
                  .limits = limits,
                  .threads = local.slot.threads,
                  .host = context_.rank_host,
                  .device_index = std::max(0, local.device),
                  .weights_bytes = static_cast<int64_t>(weights.size()),
                  .kv_bytes = static_cast<int64_t>(kv->memory.size())};
    if (joined_->cuda != nullptr && joined_->cuda->Sharers(local.slot_index) == 1) {
      const int64_t beside =
          joined_->cuda->InUse(local.slot_index, WorkingBytes(*joined_, local), joined_->numerics.mode);
      if (beside > 0) spec.setup.planned_device_bytes = beside + spec.setup.weights_bytes + spec.setup.kv_bytes;
    }
    if (context_.faults->Take(local.rank)) spec.setup.checked_steps = kCheckedSteps;
    spec.weights_fd = weights.fd();
    spec.kv_fd = kv->memory.fd();
    if (joined_->cuda != nullptr) spec.environment = joined_->cuda->Environment(local.slot_index, RankName(local.rank));
    caches->push_back({local.rank, kv->id});
    MutexLock lock(channels_mutex_);
    spec.channels_fd = channels_.fd();
    specs.push_back(std::move(spec));
  }
  return specs;
}

absl::StatusOr<plan::LoadProgress> Group::Load(const plan::LoadModel& load,
                                               const std::function<void(const plan::LoadProgress&)>& report) {
  if (std::exchange(load_begun_, true)) {
    return absl::FailedPreconditionError("the group has been loaded before, or has failed to");
  }
  const plan::MirrorLimits& l = load.limits;
  SHOAL_RETURN_IF_ERROR(CheckLimits(l));
  plan::LoadProgress progress;
  progress.agent = context_.self.id;
  SHOAL_RETURN_IF_ERROR(LoadWeights(*joined_, context_.cores, *context_.shelf, cancelled_, report, &progress));
  SHOAL_RETURN_IF_ERROR(OpenChannels(l));
  SHOAL_ASSIGN_OR_RETURN(const std::vector<RankSpec> specs, MakeSpecs(l, &progress.caches));
  SHOAL_RETURN_IF_ERROR(ranks_.Start(specs));
  if (!shares_memory()) SHOAL_RETURN_IF_ERROR(Rendezvous(report, progress));
  SHOAL_RETURN_IF_ERROR(ranks_.AwaitReady(cancelled_));
  loaded_.store(true, std::memory_order_release);
  progress.done = true;
  return progress;
}

absl::Status Group::Rendezvous(const std::function<void(const plan::LoadProgress&)>& report,
                               plan::LoadProgress progress) {
  SHOAL_ASSIGN_OR_RETURN(progress.addresses, ranks_.AwaitAddresses(cancelled_));
  {
    MutexLock lock(connect_mutex_);
    connect_wanted_ = true;
  }
  report(progress);
  plan::ConnectRanks connect;
  {
    // As long as it takes the slowest agent to load: the coordinator ends it otherwise.
    MutexLock lock(connect_mutex_);
    while (!connect_.has_value()) {
      if (cancelled_.load()) return absl::CancelledError("the group has been ended while its ranks started");
      SHOAL_RETURN_IF_ERROR(ranks_.Alive());
      connect_came_.WaitFor(connect_mutex_, kConnectPoll);
    }
    connect = *connect_;
  }
  return ranks_.Connect(connect);
}

absl::Status Group::Connect(plan::ConnectRanks connect) {
  const size_t ranks = joined_->join.ranks.size();
  if (connect.epoch != epoch_ || connect.coordinator != coordinator_ || cancelled_.load()) {
    context_.stale->Count(plan::StalePlace::kConnect);
    return absl::AbortedError(absl::StrCat("there is no group of epoch ", connect.epoch, " here"));
  }
  if (connect.ranks.size() != ranks) {
    return absl::InvalidArgumentError(absl::StrCat(connect.ranks.size(), " addresses for ", ranks, " ranks"));
  }
  MutexLock lock(connect_mutex_);
  if (!std::exchange(connect_wanted_, false)) {
    return absl::FailedPreconditionError("no rank of the group waits for addresses");
  }
  connect_ = std::move(connect);
  connect_came_.NotifyAll();
  return absl::OkStatus();
}

absl::Status Group::Append(const plan::Stamp& stamp, std::string_view plan) {
  if (stamp.epoch != epoch_ || stamp.incarnation != coordinator_ || cancelled_.load()) {
    context_.stale->Count(plan::StalePlace::kPlan);
    return absl::OkStatus();
  }
  if (!first_plan_seen_.exchange(true)) {
    // The coordinator sends it once every rank of the group is attached.
    MutexLock lock(channels_mutex_);
    channels_.Unlink();
  }
  return ranks_.Append(stamp, plan);
}

std::vector<plan::RankStatus> Group::Statuses() const {
  std::vector<plan::RankStatus> statuses = ranks_.Statuses();
  if (statuses.size() == joined_->ranks.size()) return statuses;
  statuses.clear();
  for (const LocalRank& local : joined_->ranks) {
    plan::RankStatus s;
    s.rank = local.rank;
    s.state = cancelled_.load() ? plan::RankState::kDead : plan::RankState::kLoading;
    statuses.push_back(std::move(s));
  }
  return statuses;
}

void Group::Cancel() {
  cancelled_.store(true);
  ranks_.Abort();
}

void Group::End(const absl::Status& why) {
  Cancel();
  ranks_.End();
  outbox_.Close(why);
  // Also where this agent never opened the channels: the one that made them may have been killed.
  if (shares_memory() && !joined_->alone) Channels::Remove(joined_->join.comm_token);
}

}  // namespace shoal::agent
