// One registration of one agent: the gate through which all its events pass, the connection to its endpoint, and the
// calls that run on it. Thread-safe. Operations are started with a lock held, by callers and by reactions alike (a
// write that ends starts the next one); that cannot deadlock, since gRPC never runs a reaction inside the stack of
// whoever starts, cancels or finishes an operation.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "common/base/mutex.h"
#include "coordinator/core/events.h"
#include "coordinator/rpc/stale_tally.h"

namespace grpc {
class Channel;
}

namespace shoal::rpc {

// Waits for objects that end on gRPC's threads.
class Pending {
 public:
  void Add();
  void Done();
  void WaitForNone();

 private:
  Mutex mutex_;
  CondVar none_;
  int count_ SHOAL_GUARDED_BY(mutex_) = 0;
};

// A call in progress, or the agent's heartbeat stream. Keeps itself alive until gRPC is done with it. Counted from its
// first moment to its last: as the first base it is the last to go, after its hold on the link and the connection.
class Call {
 public:
  explicit Call(Pending& pending) : pending_(pending) { pending_.Add(); }
  virtual ~Call() { pending_.Done(); }
  Call(const Call&) = delete;
  // Ends it soon; harmless after its end.
  virtual void Cancel(const std::string& reason) = 0;
  // Of the group it belongs to; a call of an older epoch than a new join or abort is cancelled and its end ignored.
  virtual uint64_t epoch() const { return UINT64_MAX; }

 private:
  Pending& pending_;
};

class ExecuteCall;

class AgentLink : public std::enable_shared_from_this<AgentLink> {
 public:
  using Post = std::function<void(core::Event)>;
  AgentLink(plan::AgentInfo info, uint64_t coordinator, const Post* post, Pending* pending,
            std::shared_ptr<StaleTally> stale);

  const plan::AgentInfo& info() const { return info_; }
  uint64_t coordinator() const { return coordinator_; }
  Pending& pending() { return *pending_; }
  StaleTally& stale() { return *stale_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  // Posts, in order with all other events of this registration; false (nothing posted) once the agent is lost.
  bool Deliver(core::Event event) SHOAL_EXCLUDES(gate_);
  // The first time: posts AgentLost and cancels all calls. Afterwards nothing of this registration is posted.
  void Lose(const std::string& reason) SHOAL_EXCLUDES(gate_, mutex_);
  bool lost() SHOAL_EXCLUDES(gate_);
  // Ends everything without a word, when the coordinator itself ends.
  void Close() SHOAL_EXCLUDES(gate_, mutex_);

  void Join(const core::SendJoin& effect);
  void Load(const core::SendLoad& effect);
  void Connect(const core::SendConnect& effect);
  void Preload(const core::SendPreload& effect);
  void SendPlan(const core::SendPlan& effect);
  void Abort(const core::SendAbort& effect);
  void Drain(const core::SendDrain& effect);

  // The step stream of an epoch; opened when its load is done, so that rank exits arrive before the first plan.
  void OpenExecute(uint64_t epoch);

  // False: the link is closed or lost already, the call must not start.
  bool Enter(const std::shared_ptr<Call>& call) SHOAL_EXCLUDES(mutex_);
  void Leave(const Call* call) SHOAL_EXCLUDES(mutex_);
  // Whether the end of a call of this epoch says nothing any more.
  bool Retired(uint64_t epoch) SHOAL_EXCLUDES(mutex_);
  // The same of a message that has come; counted if so.
  bool Refuses(uint64_t epoch, plan::StalePlace place) SHOAL_EXCLUDES(mutex_);

 private:
  void Retire(uint64_t below) SHOAL_EXCLUDES(mutex_);
  void CancelAll(const std::string& reason) SHOAL_EXCLUDES(mutex_);

  const plan::AgentInfo info_;
  const uint64_t coordinator_;
  const Post* const post_;
  Pending* const pending_;
  const std::shared_ptr<StaleTally> stale_;
  const std::shared_ptr<grpc::Channel> channel_;

  Mutex gate_;  // held while posting, so that events keep their order; never taken by what `post` may call
  bool lost_ SHOAL_GUARDED_BY(gate_) = false;

  Mutex mutex_;
  bool closed_ SHOAL_GUARDED_BY(mutex_) = false;
  uint64_t retired_below_ SHOAL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_set<std::shared_ptr<Call>> calls_ SHOAL_GUARDED_BY(mutex_);
  std::shared_ptr<ExecuteCall> execute_ SHOAL_GUARDED_BY(mutex_);
};

}  // namespace shoal::rpc
