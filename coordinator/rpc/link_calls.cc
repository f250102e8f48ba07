// Tested by: tests/rpc/agents_test.cc
#include "coordinator/rpc/link_calls.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/plan/wire.h"
#include "common/plan/wire_grpc.h"
#include "worker.grpc.pb.h"

namespace shoal::rpc {
namespace {

// Joining ends the ranks of the former group and reads the model's headers, maybe from a cold network disk.
constexpr auto kJoinDeadline = std::chrono::seconds(120);
constexpr auto kAbortDeadline = std::chrono::seconds(30), kConnectDeadline = std::chrono::seconds(30),
               kDrainDeadline = std::chrono::seconds(30);

// The connection or the deadline failed. An agent never answers with these two codes: what went wrong on its side and
// may go well the next time (a rank that ended while it started, an epoch that is over) is ABORTED, and is an answer.
bool Unreached(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::UNAVAILABLE ||
         status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
}

// A call with one answer.
template <typename Reply>
class UnaryCall : public Call {
 public:
  UnaryCall(std::shared_ptr<AgentLink> link, std::chrono::seconds deadline)
      : Call(link->pending()), link_(std::move(link)), stub_(proto::Worker::NewStub(link_->channel())) {
    context_.set_deadline(std::chrono::system_clock::now() + deadline);
  }
  void Cancel(const std::string&) override { context_.TryCancel(); }

 protected:
  // Its epoch is over: the answer says nothing any more. What ended because of that, cancelled, is no answer.
  bool Late(const grpc::Status& status) {
    if (status.error_code() == grpc::StatusCode::CANCELLED) return link_->Retired(epoch());
    return link_->Refuses(epoch(), plan::StalePlace::kReply);
  }
  // "JoinGroup" and what is known of its execution, for a call that was not answered.
  void LoseFor(const char* name, const grpc::Status& status) {
    link_->Lose(absl::StrCat(name, " was not answered (may have been executed): ", status.error_message()));
  }

  const std::shared_ptr<AgentLink> link_;
  const std::unique_ptr<proto::Worker::Stub> stub_;
  grpc::ClientContext context_;
  Reply reply_;
};

class JoinCall final : public UnaryCall<proto::JoinGroupReply> {
 public:
  JoinCall(std::shared_ptr<AgentLink> link, const plan::JoinGroup& join)
      : UnaryCall(std::move(link), kJoinDeadline), epoch_(join.epoch) {
    plan::ToProto(join, &request_);
  }
  uint64_t epoch() const override { return epoch_; }

  void Start(std::shared_ptr<JoinCall> self) {
    stub_->async()->JoinGroup(&context_, &request_, &reply_,
                              [self = std::move(self)](const grpc::Status& status) { self->Done(status); });
  }

 private:
  void Done(const grpc::Status& status) {
    link_->Leave(this);
    if (Late(status)) return;
    if (Unreached(status)) return LoseFor("JoinGroup", status);
    absl::StatusOr<plan::JoinReply> reply = absl::UnknownError("");
    if (status.ok()) {
      reply = plan::FromProto(reply_);
    } else {
      reply = plan::FromGrpc(status);
    }
    link_->Deliver(core::JoinAnswered{link_->info().id, epoch_, std::move(reply)});
  }

  const uint64_t epoch_;
  proto::JoinGroupRequest request_;
};

class AbortCall final : public UnaryCall<proto::AbortReply> {
 public:
  AbortCall(std::shared_ptr<AgentLink> link, uint64_t epoch, const std::string& reason)
      : UnaryCall(std::move(link), kAbortDeadline) {
    request_.set_epoch(epoch);
    request_.set_reason(reason);
  }

  void Start(std::shared_ptr<AbortCall> self) {
    stub_->async()->Abort(&context_, &request_, &reply_,
                          [self = std::move(self)](const grpc::Status& status) { self->Done(status); });
  }

 private:
  void Done(const grpc::Status& status) {
    link_->Leave(this);
    if (Unreached(status)) LoseFor("Abort", status);
  }

  proto::AbortRequest request_;
};

class DrainCall final : public UnaryCall<proto::DrainReply> {
 public:
  DrainCall(std::shared_ptr<AgentLink> link, uint64_t epoch, plan::DrainState state)
      : UnaryCall(std::move(link), kDrainDeadline) {
    request_.set_epoch(epoch);
    request_.set_state(static_cast<int32_t>(state));
  }

  void Start(std::shared_ptr<DrainCall> self) {
    stub_->async()->Drain(&context_, &request_, &reply_,
                          [self = std::move(self)](const grpc::Status& status) { self->Done(status); });
  }

 private:
  void Done(const grpc::Status& status) {
    link_->Leave(this);
    if (Unreached(status)) LoseFor("Drain", status);
  }

  proto::DrainRequest request_;
};

class ConnectCall final : public UnaryCall<proto::ConnectRanksReply> {
 public:
  ConnectCall(std::shared_ptr<AgentLink> link, const plan::ConnectRanks& connect)
      : UnaryCall(std::move(link), kConnectDeadline), epoch_(connect.epoch) {
    plan::ToProto(connect, &request_);
  }
  uint64_t epoch() const override { return epoch_; }

  void Start(std::shared_ptr<ConnectCall> self) {
    stub_->async()->ConnectRanks(&context_, &request_, &reply_,
                                 [self = std::move(self)](const grpc::Status& status) { self->Done(status); });
  }

 private:
  void Done(const grpc::Status& status) {
    link_->Leave(this);
    if (Late(status) || status.ok()) return;
    if (Unreached(status)) return LoseFor("ConnectRanks", status);
    link_->Deliver(core::LoadFailed{link_->info().id, epoch_, plan::FromGrpc(status)});
  }

  const uint64_t epoch_;
  proto::ConnectRanksRequest request_;
};

// No deadline: a load takes as long as it takes; heartbeats tell whether the agent lives.
class LoadCall final : public Call, private grpc::ClientReadReactor<proto::LoadModelProgress> {
 public:
  LoadCall(std::shared_ptr<AgentLink> link, const plan::LoadModel& load)
      : Call(link->pending()),
        link_(std::move(link)),
        epoch_(load.epoch),
        stub_(proto::Worker::NewStub(link_->channel())) {
    plan::ToProto(load, &request_);
  }
  void Cancel(const std::string&) override { context_.TryCancel(); }
  uint64_t epoch() const override { return epoch_; }

  void Start(std::shared_ptr<LoadCall> self) {
    self_ = std::move(self);
    stub_->async()->LoadModel(&context_, &request_, this);
    StartRead(&progress_);
    StartCall();
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return;
    absl::StatusOr<plan::LoadProgress> progress = plan::FromProto(progress_);
    if (progress.ok() && !link_->Refuses(epoch_, plan::StalePlace::kReply)) {
      done_ = done_ || progress->done;
      if (progress->done) link_->OpenExecute(epoch_);
      link_->Deliver(core::LoadAdvanced{epoch_, *std::move(progress)});
    }
    StartRead(&progress_);
  }

  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<LoadCall> self = std::move(self_);
    link_->Leave(this);
    if (link_->Retired(epoch_) || done_) return;
    if (Unreached(status)) {
      return link_->Lose(absl::StrCat("LoadModel broke off (may go on there): ", status.error_message()));
    }
    absl::Status failure = plan::FromGrpc(status);
    if (failure.ok()) failure = absl::InternalError("LoadModel ended without saying that it is done");
    link_->Deliver(core::LoadFailed{link_->info().id, epoch_, std::move(failure)});
  }

  const std::shared_ptr<AgentLink> link_;
  const uint64_t epoch_;
  const std::unique_ptr<proto::Worker::Stub> stub_;
  grpc::ClientContext context_;
  proto::LoadModelRequest request_;
  proto::LoadModelProgress progress_;
  bool done_ = false;
  std::shared_ptr<LoadCall> self_;  // until OnDone
};

// No deadline, as a load has none; the core gives up one that stands still.
class PreloadCall final : public Call, private grpc::ClientReadReactor<proto::PreloadProgress> {
 public:
  PreloadCall(std::shared_ptr<AgentLink> link, const plan::JoinGroup& join)
      : Call(link->pending()),
        link_(std::move(link)),
        epoch_(join.epoch),
        stub_(proto::Worker::NewStub(link_->channel())) {
    plan::ToProto(join, &request_);
  }
  void Cancel(const std::string&) override { context_.TryCancel(); }
  uint64_t epoch() const override { return epoch_; }

  void Start(std::shared_ptr<PreloadCall> self) {
    self_ = std::move(self);
    stub_->async()->Preload(&context_, &request_, this);
    StartRead(&message_);
    StartCall();
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return;
    absl::StatusOr<plan::LoadProgress> progress = plan::FromProto(message_.load());
    absl::StatusOr<plan::JoinReply> reply = plan::FromProto(message_.reply());
    if (progress.ok() && reply.ok() && !link_->Refuses(epoch_, plan::StalePlace::kReply)) {
      done_ = done_ || progress->done;
      link_->Deliver(core::PreloadAdvanced{epoch_, *std::move(progress), *std::move(reply)});
    }
    StartRead(&message_);
  }

  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<PreloadCall> self = std::move(self_);
    link_->Leave(this);
    if (link_->Retired(epoch_) || done_) return;
    if (Unreached(status)) {
      return link_->Lose(absl::StrCat("Preload broke off (may go on there): ", status.error_message()));
    }
    absl::Status failure = plan::FromGrpc(status);
    if (failure.ok()) failure = absl::InternalError("Preload ended without saying that it is done");
    link_->Deliver(core::PreloadFailed{link_->info().id, epoch_, std::move(failure)});
  }

  const std::shared_ptr<AgentLink> link_;
  const uint64_t epoch_;
  const std::unique_ptr<proto::Worker::Stub> stub_;
  grpc::ClientContext context_;
  proto::JoinGroupRequest request_;
  proto::PreloadProgress message_;
  bool done_ = false;
  std::shared_ptr<PreloadCall> self_;  // until OnDone
};

template <typename T>
void StartIfEntered(const std::shared_ptr<AgentLink>& link, std::shared_ptr<T> call) {
  T* const started = call.get();
  if (link->Enter(call)) started->Start(std::move(call));
}

}  // namespace

void StartJoin(const std::shared_ptr<AgentLink>& link, const plan::JoinGroup& join) {
  StartIfEntered(link, std::make_shared<JoinCall>(link, join));
}

void StartLoad(const std::shared_ptr<AgentLink>& link, const plan::LoadModel& load) {
  StartIfEntered(link, std::make_shared<LoadCall>(link, load));
}

void StartConnect(const std::shared_ptr<AgentLink>& link, const plan::ConnectRanks& connect) {
  StartIfEntered(link, std::make_shared<ConnectCall>(link, connect));
}

void StartPreload(const std::shared_ptr<AgentLink>& link, const plan::JoinGroup& join) {
  StartIfEntered(link, std::make_shared<PreloadCall>(link, join));
}

void StartAbort(const std::shared_ptr<AgentLink>& link, uint64_t epoch, const std::string& reason) {
  StartIfEntered(link, std::make_shared<AbortCall>(link, epoch, reason));
}

void StartDrain(const std::shared_ptr<AgentLink>& link, uint64_t epoch, plan::DrainState state) {
  StartIfEntered(link, std::make_shared<DrainCall>(link, epoch, state));
}

}  // namespace shoal::rpc
