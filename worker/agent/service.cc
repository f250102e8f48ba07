// Tested by: tests/agent/agent_test.cc
#include "worker/agent/service.h"

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/plan/wire.h"
#include "common/plan/wire_grpc.h"
#include "worker.grpc.pb.h"

namespace shoal::agent {
namespace {

constexpr auto kServerGrace = std::chrono::milliseconds(200);

// UNAVAILABLE and DEADLINE_EXCEEDED are left to the connection (worker.proto), whatever a disk answers.
grpc::Status ToAnswer(const absl::Status& status) {
  if (!absl::IsUnavailable(status) && !absl::IsDeadlineExceeded(status)) return plan::ToGrpc(status);
  return plan::ToGrpc(absl::AbortedError(status.message()));
}

// Messages that leave one at a time, in order; then a status. Base of both streams: `Reactor` is gRPC's.
template <typename Reactor, typename Message>
class OrderedWriter : public Reactor {
 public:
  void Write(Message message) SHOAL_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (ended_) return;
    queue_.push_back(std::move(message));
    if (queue_.size() == 1) this->StartWrite(&queue_.front());
  }
  // After what is queued, unless the stream is broken.
  void EndWith(const absl::Status& status) SHOAL_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (ended_) return;
    ended_ = true;
    status_ = ToAnswer(status);
    if (queue_.empty()) this->Finish(status_);
  }

 protected:
  void OnWriteDone(bool ok) override {
    MutexLock lock(mutex_);
    queue_.pop_front();
    if (!ok) queue_.clear();
    if (!queue_.empty()) return this->StartWrite(&queue_.front());
    if (ended_) this->Finish(status_);
  }

 private:
  Mutex mutex_;
  bool ended_ SHOAL_GUARDED_BY(mutex_) = false;  // nothing may be queued any more
  grpc::Status status_ SHOAL_GUARDED_BY(mutex_);
  std::deque<Message> queue_ SHOAL_GUARDED_BY(mutex_);  // front: being written
};

template <typename Message>
class ProgressStream final : public OrderedWriter<grpc::ServerWriteReactor<Message>, Message> {
 public:
  void Keep(std::shared_ptr<ProgressStream> self) { self_ = std::move(self); }

 private:
  void OnDone() override { const std::shared_ptr<ProgressStream> last = std::move(self_); }
  std::shared_ptr<ProgressStream> self_;  // until OnDone
};

class StepStream final
    : public OrderedWriter<grpc::ServerBidiReactor<proto::ExecuteRequest, proto::ExecuteReply>, proto::ExecuteReply>,
      public AnswerSink {
 public:
  explicit StepStream(Control* control) : control_(control) {}
  void Keep(std::shared_ptr<StepStream> self) { self_ = std::move(self); }
  void Start() { StartRead(&request_); }

  void Send(Answer answer) override {
    proto::ExecuteReply reply;
    if (const auto* result = std::get_if<ResultBytes>(&answer)) {
      auto* frame = reply.mutable_result();
      frame->mutable_stamp()->set_epoch(result->stamp.epoch);
      frame->mutable_stamp()->set_incarnation(result->stamp.incarnation);
      frame->mutable_stamp()->set_step(result->stamp.step);
      frame->set_rank(result->rank);
      frame->set_result(result->bytes);
    } else {
      plan::ToProto(std::get<plan::RankExit>(answer), reply.mutable_exit());
    }
    Write(std::move(reply));
  }
  void End(const absl::Status& status) override { EndWith(status); }

 private:
  absl::Status Accept() {
    if (request_.has_open()) {
      if (group_ != nullptr) return absl::InvalidArgumentError("a step stream is opened once");
      SHOAL_ASSIGN_OR_RETURN(group_, control_->Open(request_.open().epoch(), request_.open().coordinator()));
      if (!group_->outbox().Attach(self_)) return absl::AbortedError("the group has just ended");
      return absl::OkStatus();
    }
    if (!request_.has_plan() || group_ == nullptr) {
      return absl::InvalidArgumentError("a step stream begins with `open`, then come plans");
    }
    const proto::Stamp& stamp = request_.plan().stamp();
    return group_->Append({stamp.epoch(), stamp.incarnation(), stamp.step()}, request_.plan().plan());
  }

  void OnReadDone(bool ok) override {
    if (!ok) return EndWith(absl::OkStatus());
    const absl::Status accepted = Accept();
    if (!accepted.ok()) return EndWith(accepted);
    StartRead(&request_);
  }
  void OnCancel() override { EndWith(absl::CancelledError("the coordinator went away")); }
  void OnDone() override {
    const std::shared_ptr<StepStream> last = std::move(self_);
    if (group_ != nullptr) group_->outbox().Detach(this);
  }

  Control* const control_;
  proto::ExecuteRequest request_;     // of the outstanding read
  std::shared_ptr<Group> group_;      // set by `open`
  std::shared_ptr<StepStream> self_;  // until OnDone
};

class Service final : public proto::Worker::CallbackService {
 public:
  void Serve(Control* control) { control_.store(control); }

  grpc::ServerUnaryReactor* JoinGroup(grpc::CallbackServerContext* context, const proto::JoinGroupRequest* request,
                                      proto::JoinGroupReply* reply) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    absl::StatusOr<plan::JoinGroup> join = plan::FromProto(*request);
    if (join.ok() && control_ == nullptr) join = NotYet();
    if (!join.ok()) {
      reactor->Finish(ToAnswer(join.status()));
      return reactor;
    }
    control_.load()->Join(*std::move(join), [reactor, reply](absl::StatusOr<plan::JoinReply> answer) {
      if (answer.ok()) plan::ToProto(*answer, reply);
      reactor->Finish(ToAnswer(answer.status()));
    });
    return reactor;
  }

  grpc::ServerWriteReactor<proto::LoadModelProgress>* LoadModel(grpc::CallbackServerContext*,
                                                                const proto::LoadModelRequest* request) override {
    const auto stream = std::make_shared<ProgressStream<proto::LoadModelProgress>>();
    stream->Keep(stream);
    absl::StatusOr<plan::LoadModel> load = plan::FromProto(*request);
    if (load.ok() && control_ == nullptr) load = NotYet();
    if (!load.ok()) {
      stream->EndWith(load.status());
      return stream.get();
    }
    control_.load()->Load(
        *std::move(load),
        [stream](const plan::LoadProgress& progress) {
          proto::LoadModelProgress message;
          plan::ToProto(progress, &message);
          stream->Write(std::move(message));
        },
        [stream](const absl::Status& status) { stream->EndWith(status); });
    return stream.get();
  }

  grpc::ServerUnaryReactor* ConnectRanks(grpc::CallbackServerContext* context,
                                         const proto::ConnectRanksRequest* request,
                                         proto::ConnectRanksReply*) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    absl::StatusOr<plan::ConnectRanks> connect = plan::FromProto(*request);
    if (connect.ok() && control_ == nullptr) connect = NotYet();
    reactor->Finish(ToAnswer(connect.ok() ? control_.load()->Connect(*std::move(connect)) : connect.status()));
    return reactor;
  }

  grpc::ServerWriteReactor<proto::PreloadProgress>* Preload(grpc::CallbackServerContext*,
                                                            const proto::JoinGroupRequest* request) override {
    const auto stream = std::make_shared<ProgressStream<proto::PreloadProgress>>();
    stream->Keep(stream);
    absl::StatusOr<plan::JoinGroup> join = plan::FromProto(*request);
    if (join.ok() && control_ == nullptr) join = NotYet();
    if (!join.ok()) {
      stream->EndWith(join.status());
      return stream.get();
    }
    control_.load()->Preload(
        *std::move(join),
        [stream](const plan::LoadProgress& progress) {
          proto::PreloadProgress message;
          plan::ToProto(progress, message.mutable_load());
          stream->Write(std::move(message));
        },
        [stream](const absl::StatusOr<Control::Preloaded>& preloaded) {
          if (preloaded.ok()) {
            proto::PreloadProgress message;
            plan::ToProto(preloaded->progress, message.mutable_load());
            plan::ToProto(preloaded->reply, message.mutable_reply());
            stream->Write(std::move(message));
          }
          stream->EndWith(preloaded.status());
        });
    return stream.get();
  }

  grpc::ServerBidiReactor<proto::ExecuteRequest, proto::ExecuteReply>* Execute(grpc::CallbackServerContext*) override {
    const auto stream = std::make_shared<StepStream>(control_);
    stream->Keep(stream);
    if (control_ == nullptr) {
      stream->EndWith(NotYet());
    } else {
      stream->Start();
    }
    return stream.get();
  }

  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context, const proto::AbortRequest* request,
                                  proto::AbortReply*) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    if (control_ == nullptr) {
      reactor->Finish(ToAnswer(NotYet()));
      return reactor;
    }
    control_.load()->Abort(request->epoch(), request->reason(),
                           [reactor](const absl::Status& status) { reactor->Finish(ToAnswer(status)); });
    return reactor;
  }

  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context, const proto::DrainRequest* request,
                                  proto::DrainReply*) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    absl::StatusOr<plan::DrainState> state = plan::ToDrainState(request->state());
    if (state.ok() && control_ == nullptr) state = NotYet();
    reactor->Finish(ToAnswer(state.ok() ? control_.load()->Drain(request->epoch(), *state) : state.status()));
    return reactor;
  }

 private:
  static absl::Status NotYet() { return absl::AbortedError("the agent is starting"); }

  std::atomic<Control*> control_{nullptr};
};

class EndpointImpl final : public Endpoint {
 public:
  ~EndpointImpl() override {
    if (server_ == nullptr) return;
    server_->Shutdown(std::chrono::system_clock::now() + kServerGrace);
    server_->Wait();
  }

  absl::Status Listen(const std::string& address) {
    grpc::ServerBuilder builder;
    plan::ConfigureServer(address, builder, &port_);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    if (server_ != nullptr && port_ != 0) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("cannot listen for the coordinator on ", address,
                                               ": is the port in use, or the address not of this host?"));
  }

  int port() const override { return port_; }
  void Serve(Control* control) override { service_.Serve(control); }

 private:
  Service service_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Endpoint>> Endpoint::Listen(const std::string& address) {
  auto endpoint = std::make_unique<EndpointImpl>();
  SHOAL_RETURN_IF_ERROR(endpoint->Listen(address));
  return endpoint;
}

}  // namespace shoal::agent
