// Tested by: tests/rpc/agents_test.cc
#include "coordinator/rpc/execute_call.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/plan/wire.h"
#include "common/plan/wire_grpc.h"

namespace shoal::rpc {

ExecuteCall::ExecuteCall(std::shared_ptr<AgentLink> link, uint64_t epoch)
    : Call(link->pending()), link_(std::move(link)), epoch_(epoch), stub_(proto::Worker::NewStub(link_->channel())) {}

void ExecuteCall::Start(std::shared_ptr<ExecuteCall> self) {
  self_ = std::move(self);
  stub_->async()->Execute(&context_, this);
  AddHold();  // Send() starts writes outside reactions
  StartRead(&reply_);
  proto::ExecuteRequest open;
  open.mutable_open()->set_epoch(epoch_);
  open.mutable_open()->set_coordinator(link_->coordinator());
  {
    MutexLock lock(mutex_);
    Queue(std::move(open));
  }
  StartCall();
}

void ExecuteCall::Send(const plan::Stamp& stamp, const std::string& plan) {
  proto::ExecuteRequest frame;
  auto* out = frame.mutable_plan();
  out->mutable_stamp()->set_epoch(stamp.epoch);
  out->mutable_stamp()->set_incarnation(stamp.incarnation);
  out->mutable_stamp()->set_step(stamp.step);
  out->set_plan(plan);
  MutexLock lock(mutex_);
  if (open_) Queue(std::move(frame));
}

void ExecuteCall::Queue(proto::ExecuteRequest frame) {
  queue_.push_back(std::move(frame));
  if (queue_.size() == 1) StartWrite(&queue_.front());
}

void ExecuteCall::Cancel(const std::string&) { context_.TryCancel(); }

void ExecuteCall::OnWriteDone(bool ok) {
  MutexLock lock(mutex_);
  queue_.pop_front();
  if (!ok) queue_.clear();  // the end of the stream is reported by OnDone
  if (!queue_.empty()) StartWrite(&queue_.front());
}

absl::Status ExecuteCall::Accept() {
  if (link_->Refuses(epoch_, plan::StalePlace::kFrame)) return absl::OkStatus();
  if (reply_.has_exit()) {
    SHOAL_ASSIGN_OR_RETURN(plan::RankExit exit, plan::FromProto(reply_.exit()));
    link_->Deliver(core::RankExited{link_->info().id, std::move(exit)});
    return absl::OkStatus();
  }
  if (!reply_.has_result()) return absl::InvalidArgumentError("an empty frame");
  SHOAL_ASSIGN_OR_RETURN(plan::StepResult result, plan::DecodeResult(reply_.result().result()));
  if (result.stamp.epoch != epoch_) {
    link_->stale().Count(plan::StalePlace::kFrame);
    return absl::OkStatus();
  }
  link_->Deliver(core::StepAnswered{link_->info().id, std::move(result)});
  return absl::OkStatus();
}

void ExecuteCall::OnReadDone(bool ok) {
  if (ok) {
    const absl::Status accepted = Accept();
    if (accepted.ok()) {
      StartRead(&reply_);
      return;
    }
    link_->Lose(absl::StrCat("the agent sent nonsense on its step stream: ", accepted.message()));
    context_.TryCancel();
  }
  {
    MutexLock lock(mutex_);
    open_ = false;
  }
  RemoveHold();
}

void ExecuteCall::OnDone(const grpc::Status& status) {
  const std::shared_ptr<ExecuteCall> self = std::move(self_);
  link_->Leave(this);
  if (link_->Retired(epoch_)) return;
  link_->Lose(absl::StrCat("the step stream of epoch ", epoch_, " ended (plans may have been executed): ",
                           status.ok() ? "closed by the agent" : status.error_message()));
}

}  // namespace shoal::rpc
