// Tested by: tests/agent/agent_test.cc
#include "worker/agent/control.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/agent/loader.h"

namespace shoal::agent {
namespace {

GroupContext Complete(GroupContext context, Shelf* shelf, plan::StaleCounters* stale, DeviceFaults* faults) {
  context.shelf = shelf;
  context.stale = stale;
  context.faults = faults;
  return context;
}

absl::StatusOr<Control::Preloaded> ReadWeights(const plan::JoinGroup& join, const GroupContext& context,
                                               const std::atomic<bool>& cancelled, const Control::OnProgress& report) {
  if (std::none_of(join.ranks.begin(), join.ranks.end(), [&](const auto& a) { return a.agent == context.self.id; })) {
    context.shelf->KeepOnly("", {});
    Control::Preloaded nothing;
    nothing.progress.agent = context.self.id;
    nothing.progress.done = true;
    return nothing;
  }
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Joined> joined, ResolveJoin(join, context.self, context.cuda));
  Control::Preloaded result;
  SHOAL_ASSIGN_OR_RETURN(result.reply, ReplyTo(*joined, *context.shelf));
  result.progress.agent = context.self.id;
  SHOAL_RETURN_IF_ERROR(LoadWeights(*joined, context.cores, *context.shelf, cancelled, report, &result.progress));
  result.progress.done = true;
  return result;
}

absl::Status Stopping() { return absl::CancelledError("the agent is ending"); }

}  // namespace

Control::Control(GroupContext context)
    : context_(Complete(std::move(context), &shelf_, &stale_, &faults_)), thread_([this] { Run(); }) {}

Control::~Control() { Stop(); }

void Control::Run() {
  while (true) {
    std::function<void()> job;
    {
      MutexLock lock(mutex_);
      while (jobs_.empty() && !stopped_) changed_.Wait(mutex_);
      if (jobs_.empty()) break;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job();
  }
  EndCurrent(Stopping());
}

void Control::Stop() {
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    if (group_ != nullptr) group_->Cancel();
    preload_cancelled_.store(true);
    changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

bool Control::Enqueue(std::function<void()> job) {
  MutexLock lock(mutex_);
  if (stopped_) return false;
  jobs_.push_back(std::move(job));
  changed_.NotifyAll();
  return true;
}

std::shared_ptr<Group> Control::Current() const {
  MutexLock lock(mutex_);
  return group_;
}

absl::Status Control::Refuse(plan::StalePlace place, std::string what) {
  stale_.Count(place);
  return absl::AbortedError(what);
}

absl::Status Control::Enter(uint64_t epoch, plan::StalePlace what) {
  MutexLock lock(mutex_);
  if (stopped_) return Stopping();
  const bool joining = what == plan::StalePlace::kJoin;
  if (epoch < highest_epoch_ || (joining && epoch <= joined_epoch_)) {
    return Refuse(
        what, absl::StrCat("epoch ", epoch, " is over: epoch ", std::max(highest_epoch_, joined_epoch_), " has begun"));
  }
  highest_epoch_ = epoch;
  if (joining) joined_epoch_ = epoch;
  if (group_ != nullptr && group_->epoch() < epoch) group_->Cancel();
  if (preload_epoch_ != 0 && preload_epoch_ < epoch) preload_cancelled_.store(true);
  return absl::OkStatus();
}

// Heartbeats show the ranks, dead ones as such, until the last of them is reaped.
void Control::EndCurrent(const absl::Status& why) {
  const std::shared_ptr<Group> group = Current();
  if (group == nullptr) return;
  group->End(why);
  MutexLock lock(mutex_);
  group_ = nullptr;
  changes_.fetch_add(1, std::memory_order_release);
}

void Control::Join(plan::JoinGroup join, OnJoined done) {
  if (absl::Status entered = Enter(join.epoch, plan::StalePlace::kJoin); !entered.ok()) return done(entered);
  const bool queued = Enqueue([this, join = std::move(join), done] { done(DoJoin(join)); });
  if (!queued) done(Stopping());
}

absl::StatusOr<plan::JoinReply> Control::DoJoin(const plan::JoinGroup& join) {
  EndCurrent(absl::AbortedError(absl::StrCat("epoch ", join.epoch, " has begun")));
  GroupContext context = context_;
  {
    MutexLock lock(mutex_);
    context.rank_host = rank_host_;
  }
  plan::JoinReply reply;
  SHOAL_ASSIGN_OR_RETURN(std::shared_ptr<Group> group, Group::Join(join, context, &reply));
  {
    MutexLock lock(mutex_);
    if (join.epoch == highest_epoch_ && !stopped_) {
      group_ = std::move(group);
      return reply;
    }
  }
  return Refuse(plan::StalePlace::kJoin, absl::StrCat("epoch ", join.epoch, " was over before its group had formed"));
}

void Control::Load(plan::LoadModel load, OnProgress report, OnDone done) {
  const bool queued =
      Enqueue([this, load = std::move(load), report = std::move(report), done] { done(DoLoad(load, report)); });
  if (!queued) done(Stopping());
}

absl::Status Control::DoLoad(const plan::LoadModel& load, const OnProgress& report) {
  const std::shared_ptr<Group> group = Current();
  if (group == nullptr || group->epoch() != load.epoch) {
    return Refuse(plan::StalePlace::kLoad, absl::StrCat("there is no group of epoch ", load.epoch, " here"));
  }
  SHOAL_ASSIGN_OR_RETURN(const plan::LoadProgress done, group->Load(load, report));
  changes_.fetch_add(1, std::memory_order_release);
  report(done);
  return absl::OkStatus();
}

void Control::Preload(plan::JoinGroup join, OnProgress report, OnPreloaded done) {
  if (absl::Status entered = Enter(join.epoch, plan::StalePlace::kPreload); !entered.ok()) return done(entered);
  const bool queued =
      Enqueue([this, join = std::move(join), report = std::move(report), done] { done(DoPreload(join, report)); });
  if (!queued) done(Stopping());
}

absl::StatusOr<Control::Preloaded> Control::DoPreload(const plan::JoinGroup& join, const OnProgress& report) {
  {
    MutexLock lock(mutex_);
    if (stopped_) return Stopping();
    if (join.epoch < highest_epoch_) {
      return Refuse(plan::StalePlace::kPreload, absl::StrCat("epoch ", join.epoch, " is over"));
    }
    preload_epoch_ = join.epoch;
    preload_cancelled_.store(false);
  }
  absl::StatusOr<Preloaded> result = ReadWeights(join, context_, preload_cancelled_, report);
  MutexLock lock(mutex_);
  preload_epoch_ = 0;
  if (!result.ok() && preload_cancelled_.load()) {
    return absl::AbortedError(absl::StrCat("epoch ", join.epoch, " was over before its weights were read"));
  }
  return result;
}

void Control::Abort(uint64_t epoch, const std::string& reason, OnDone done) {
  if (absl::Status entered = Enter(epoch, plan::StalePlace::kAbort); !entered.ok()) return done(entered);
  const bool queued = Enqueue([this, epoch, reason, done] {
    const std::shared_ptr<Group> group = Current();
    if (group != nullptr && group->epoch() < epoch) EndCurrent(absl::AbortedError(reason));
    done(absl::OkStatus());
  });
  if (!queued) done(Stopping());
}

absl::Status Control::Drain(uint64_t epoch, plan::DrainState state) {
  MutexLock lock(mutex_);
  if (epoch < highest_epoch_) {
    return Refuse(plan::StalePlace::kDrain,
                  absl::StrCat("epoch ", epoch, " is over: epoch ", highest_epoch_, " has begun"));
  }
  drain_ = std::max(drain_, state);
  return absl::OkStatus();
}

void Control::Drop(const std::string& reason) {
  if (const std::shared_ptr<Group> group = Current()) group->Cancel();
  preload_cancelled_.store(true);
  Enqueue([this, reason] { EndCurrent(absl::AbortedError(reason)); });
}

absl::StatusOr<std::shared_ptr<Group>> Control::Open(uint64_t epoch, uint64_t coordinator) {
  std::shared_ptr<Group> group = Current();
  if (group == nullptr || group->epoch() != epoch || group->coordinator() != coordinator) {
    return Refuse(plan::StalePlace::kOpen, absl::StrCat("there is no group of epoch ", epoch, " here"));
  }
  if (!group->loaded()) return absl::FailedPreconditionError("the group has not been loaded");
  return group;
}

absl::Status Control::Connect(plan::ConnectRanks connect) {
  const std::shared_ptr<Group> group = Current();
  if (group == nullptr) {
    return Refuse(plan::StalePlace::kConnect, absl::StrCat("there is no group of epoch ", connect.epoch, " here"));
  }
  return group->Connect(std::move(connect));
}

void Control::SetAddress(const std::string& address, const std::string& rank_host) {
  MutexLock lock(mutex_);
  address_ = address;
  rank_host_ = rank_host;
}

plan::AgentInfo Control::Info() const {
  plan::AgentInfo info = context_.self;
  Shelf::HeldWeights held = shelf_.Held();
  info.held_ranks = std::move(held.ranks);
  info.held_model = std::move(held.key);
  MutexLock lock(mutex_);
  info.address = address_;
  info.highest_epoch = highest_epoch_;
  info.drain = drain_;
  return info;
}

plan::Heartbeat Control::Beat() const {
  plan::Heartbeat beat;
  beat.agent = context_.self.id;
  beat.incarnation = context_.self.incarnation;
  const std::shared_ptr<Group> group = Current();
  // In this order nothing is counted twice when ranks go meanwhile: it is seen in the next one.
  beat.stale = stale_.Read();
  if (group != nullptr) {
    beat.stale[static_cast<size_t>(plan::StalePlace::kRecord)] += group->StaleRecords();
    beat.ranks = group->Statuses();
  }
  MutexLock lock(mutex_);
  beat.epoch = highest_epoch_;
  beat.drain = drain_;
  return beat;
}

}  // namespace shoal::agent
