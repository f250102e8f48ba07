// The agent's mind: epochs, and the one group that runs here. Commands come from any thread and are carried out in
// order on one control thread, which also starts all rank processes; a command of a newer epoch cuts the running one
// short.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "common/plan/control.h"
#include "worker/agent/group.h"
#include "worker/agent/shelf.h"

namespace shoal::agent {

class Control {
 public:
  // `context.self` is what will be told at Register, but for what changes (epoch, held weights); its shelf
  // and its counters are ignored.
  explicit Control(GroupContext context);
  ~Control();  // Stop()

  // `done` is called once, from the control thread or (when refused) from the caller's. Aborted: the epoch is over.
  using OnJoined = std::function<void(absl::StatusOr<plan::JoinReply>)>;
  void Join(plan::JoinGroup join, OnJoined done) SHOAL_EXCLUDES(mutex_);
  using OnProgress = std::function<void(const plan::LoadProgress&)>;
  using OnDone = std::function<void(absl::Status)>;
  void Load(plan::LoadModel load, OnProgress report, OnDone done) SHOAL_EXCLUDES(mutex_);
  // Hands the group that is being loaded the addresses of all its ranks; at once, beside the load. Any thread.
  absl::Status Connect(plan::ConnectRanks connect) SHOAL_EXCLUDES(mutex_);
  // Reads weights for a group to come: those of the ranks that `join` gives to this agent, on which a group that runs
  // here must keep its own. All others go; where none are given, all. `done` gets the last state, and what a join would
  // be answered with.
  struct Preloaded {
    plan::LoadProgress progress;
    plan::JoinReply reply;
  };
  using OnPreloaded = std::function<void(absl::StatusOr<Preloaded>)>;
  void Preload(plan::JoinGroup join, OnProgress report, OnPreloaded done) SHOAL_EXCLUDES(mutex_);
  // Ends groups of epochs below `epoch`; `done` once none of their processes is left.
  void Abort(uint64_t epoch, const std::string& reason, OnDone done) SHOAL_EXCLUDES(mutex_);
  // What to say of itself from now on, while this process lives; less than was said before changes nothing.
  absl::Status Drain(uint64_t epoch, plan::DrainState state) SHOAL_EXCLUDES(mutex_);
  // Ends the group, whatever its epoch; the epoch stays.
  void Drop(const std::string& reason) SHOAL_EXCLUDES(mutex_);

  // The group that a step stream of this epoch belongs to.
  absl::StatusOr<std::shared_ptr<Group>> Open(uint64_t epoch, uint64_t coordinator) SHOAL_EXCLUDES(mutex_);

  // Where the coordinator reaches this agent, and the host that ranks listen for others on: one of this machine's own.
  // Before the first Join().
  void SetAddress(const std::string& address, const std::string& rank_host) SHOAL_EXCLUDES(mutex_);
  // What to tell at Register, and with each heartbeat (agent, incarnation, epoch and ranks are filled in).
  plan::AgentInfo Info() const SHOAL_EXCLUDES(mutex_);
  plan::Heartbeat Beat() const SHOAL_EXCLUDES(mutex_);

  // Grows when the ranks have come up or are gone: the next heartbeat should not wait for its turn.
  uint64_t changes() const { return changes_.load(std::memory_order_acquire); }

  // Refuses what comes later, ends the group and waits. No rank process is left.
  void Stop() SHOAL_EXCLUDES(mutex_);

 private:
  void Run() SHOAL_EXCLUDES(mutex_);
  // False: stopped, the job is dropped.
  bool Enqueue(std::function<void()> job) SHOAL_EXCLUDES(mutex_);
  std::shared_ptr<Group> Current() const SHOAL_EXCLUDES(mutex_);
  // Raises the epoch and cuts short what belongs to lower ones. `what`: kJoin, kPreload or kAbort; counted when
  // refused.
  absl::Status Enter(uint64_t epoch, plan::StalePlace what) SHOAL_EXCLUDES(mutex_);
  // Counts it. `what` is wrong with it.
  absl::Status Refuse(plan::StalePlace place, std::string what);
  void EndCurrent(const absl::Status& why) SHOAL_EXCLUDES(mutex_);  // on the control thread
  absl::StatusOr<plan::JoinReply> DoJoin(const plan::JoinGroup& join);
  absl::Status DoLoad(const plan::LoadModel& load, const OnProgress& report);
  absl::StatusOr<Preloaded> DoPreload(const plan::JoinGroup& join, const OnProgress& report);

  Shelf shelf_;
  plan::StaleCounters stale_;
  DeviceFaults faults_;
  const GroupContext context_;

  mutable Mutex mutex_;
  CondVar changed_;
  bool stopped_ SHOAL_GUARDED_BY(mutex_) = false;
  uint64_t highest_epoch_ SHOAL_GUARDED_BY(mutex_) = 0;
  uint64_t joined_epoch_ SHOAL_GUARDED_BY(mutex_) = 0;  // the last that a JoinGroup was accepted for
  plan::DrainState drain_ SHOAL_GUARDED_BY(mutex_) = plan::DrainState::kNone;
  std::string address_ SHOAL_GUARDED_BY(mutex_), rank_host_ SHOAL_GUARDED_BY(mutex_);
  std::shared_ptr<Group> group_ SHOAL_GUARDED_BY(mutex_);
  uint64_t preload_epoch_ SHOAL_GUARDED_BY(mutex_) = 0;  // of the preload that runs; 0: none
  std::atomic<bool> preload_cancelled_{false};
  std::deque<std::function<void()>> jobs_ SHOAL_GUARDED_BY(mutex_);
  std::atomic<uint64_t> changes_{0};
  std::thread thread_;
};

}  // namespace shoal::agent
