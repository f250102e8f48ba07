// Tested by: tests/rpc/agents_test.cc
#include "coordinator/rpc/agent_link.h"

#include <grpcpp/channel.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/plan/wire_grpc.h"
#include "coordinator/rpc/execute_call.h"
#include "coordinator/rpc/link_calls.h"

namespace shoal::rpc {

void Pending::Add() {
  MutexLock lock(mutex_);
  ++count_;
}

void Pending::Done() {
  MutexLock lock(mutex_);
  if (--count_ == 0) none_.NotifyAll();
}

void Pending::WaitForNone() {
  MutexLock lock(mutex_);
  while (count_ != 0) none_.Wait(mutex_);
}

AgentLink::AgentLink(plan::AgentInfo info, uint64_t coordinator, const Post* post, Pending* pending,
                     std::shared_ptr<StaleTally> stale)
    : info_(std::move(info)),
      coordinator_(coordinator),
      post_(post),
      pending_(pending),
      stale_(std::move(stale)),
      channel_(plan::Connect(info_.address)) {}

bool AgentLink::Deliver(core::Event event) {
  MutexLock lock(gate_);
  if (lost_) return false;
  (*post_)(std::move(event));
  return true;
}

void AgentLink::Lose(const std::string& reason) {
  {
    MutexLock lock(gate_);
    if (lost_) return;
    lost_ = true;
    (*post_)(core::AgentLost{info_.id, reason});
  }
  CancelAll(reason);
}

bool AgentLink::lost() {
  MutexLock lock(gate_);
  return lost_;
}

void AgentLink::Close() {
  {
    MutexLock lock(gate_);
    lost_ = true;
  }
  CancelAll("the coordinator ends");
}

void AgentLink::CancelAll(const std::string& reason) {
  std::vector<std::shared_ptr<Call>> calls;
  {
    MutexLock lock(mutex_);
    closed_ = true;
    execute_.reset();
    calls.assign(calls_.begin(), calls_.end());
  }
  for (const auto& call : calls) call->Cancel(reason);
}

bool AgentLink::Enter(const std::shared_ptr<Call>& call) {
  MutexLock lock(mutex_);
  if (closed_ || call->epoch() < retired_below_) return false;
  calls_.insert(call);
  return true;
}

void AgentLink::Leave(const Call* call) {
  std::shared_ptr<Call> gone;  // destroyed outside the lock
  MutexLock lock(mutex_);
  for (auto it = calls_.begin(); it != calls_.end(); ++it) {
    if (it->get() != call) continue;
    gone = *it;
    calls_.erase(it);
    return;
  }
}

bool AgentLink::Retired(uint64_t epoch) {
  MutexLock lock(mutex_);
  return epoch < retired_below_;
}

bool AgentLink::Refuses(uint64_t epoch, plan::StalePlace place) {
  if (!Retired(epoch)) return false;
  stale_->Count(place);
  return true;
}

void AgentLink::Retire(uint64_t below) {
  std::vector<std::shared_ptr<Call>> old;
  {
    MutexLock lock(mutex_);
    if (below <= retired_below_) return;
    retired_below_ = below;
    for (const auto& call : calls_) {
      if (call->epoch() < below) old.push_back(call);
    }
    if (execute_ != nullptr && execute_->epoch() < below) execute_.reset();
  }
  for (const auto& call : old) call->Cancel("a newer epoch has begun");
}

void AgentLink::Join(const core::SendJoin& effect) {
  Retire(effect.join.epoch);
  StartJoin(shared_from_this(), effect.join);
}

void AgentLink::Load(const core::SendLoad& effect) { StartLoad(shared_from_this(), effect.load); }

void AgentLink::Connect(const core::SendConnect& effect) { StartConnect(shared_from_this(), effect.connect); }
void AgentLink::Preload(const core::SendPreload& effect) { StartPreload(shared_from_this(), effect.join); }

void AgentLink::Abort(const core::SendAbort& effect) {
  Retire(effect.epoch);
  StartAbort(shared_from_this(), effect.epoch, effect.reason);
}

void AgentLink::Drain(const core::SendDrain& effect) { StartDrain(shared_from_this(), effect.epoch, effect.state); }

void AgentLink::OpenExecute(uint64_t epoch) {
  std::shared_ptr<ExecuteCall> call;
  {
    MutexLock lock(mutex_);
    if (closed_ || epoch < retired_below_ || (execute_ != nullptr && execute_->epoch() >= epoch)) return;
    call = std::make_shared<ExecuteCall>(shared_from_this(), epoch);
    execute_ = call;
    calls_.insert(call);
  }
  call->Start(call);
}

void AgentLink::SendPlan(const core::SendPlan& effect) {
  OpenExecute(effect.stamp.epoch);
  std::shared_ptr<ExecuteCall> call;
  {
    MutexLock lock(mutex_);
    call = execute_;
  }
  if (call != nullptr && call->epoch() == effect.stamp.epoch) call->Send(effect.stamp, effect.bytes);
}

}  // namespace shoal::rpc
