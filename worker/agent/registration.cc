// Tested by: tests/agent/agent_test.cc
#include "worker/agent/registration.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cluster.grpc.pb.h"
#include "common/base/mutex.h"
#include "common/plan/wire.h"
#include "common/plan/wire_grpc.h"

namespace shoal::agent {
namespace {

constexpr auto kRegisterDeadline = std::chrono::seconds(5);
constexpr auto kPoll = std::chrono::milliseconds(20);    // how late a stop, or that a heartbeat is due, may be noticed
constexpr DurationNs kLongestGap = 2500 * kMillisecond;  // below the coordinator's three-second verdict
constexpr DurationNs kShortestInterval = 10 * kMillisecond, kLongestInterval = 10 * kSecond;

// Something that ends on gRPC's threads, once, with a status.
class Ending {
 public:
  void Set(const grpc::Status& status) {
    MutexLock lock(mutex_);
    status_ = plan::FromGrpc(status);
    ended_ = true;
    changed_.NotifyAll();
  }
  // False: not yet.
  bool WaitFor(std::chrono::nanoseconds time, absl::Status* status) {
    MutexLock lock(mutex_);
    if (!ended_) changed_.WaitFor(mutex_, time);
    if (ended_ && status != nullptr) *status = status_;
    return ended_;
  }
  void Wait() {
    MutexLock lock(mutex_);
    while (!ended_) changed_.Wait(mutex_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool ended_ SHOAL_GUARDED_BY(mutex_) = false;
  absl::Status status_ SHOAL_GUARDED_BY(mutex_);
};

// The heartbeat stream, one message at a time. Waits for its end in the destructor.
class BeatStream final : private grpc::ClientWriteReactor<proto::Heartbeat> {
 public:
  explicit BeatStream(proto::Cluster::Stub& stub) {
    stub.async()->Heartbeats(&context_, &reply_, this);
    AddHold();  // writes are started outside reactions
    StartCall();
  }
  ~BeatStream() override {
    context_.TryCancel();
    Release();
    ending_.Wait();
  }

  // Passed over while the one before is still on its way.
  void Send(const plan::Heartbeat& beat) {
    MutexLock lock(mutex_);
    if (writing_ || broken_) return;
    writing_ = true;
    message_.Clear();
    plan::ToProto(beat, &message_);
    StartWrite(&message_);
  }
  bool WaitFor(std::chrono::nanoseconds time, absl::Status* status) { return ending_.WaitFor(time, status); }

 private:
  void Release() {
    MutexLock lock(mutex_);
    broken_ = true;
    if (!std::exchange(released_, true)) RemoveHold();
  }
  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(mutex_);
      writing_ = false;
    }
    if (!ok) Release();
  }
  void OnDone(const grpc::Status& status) override { ending_.Set(status); }

  grpc::ClientContext context_;
  proto::HeartbeatsReply reply_;
  Ending ending_;
  Mutex mutex_;
  bool writing_ SHOAL_GUARDED_BY(mutex_) = false, broken_ SHOAL_GUARDED_BY(mutex_) = false,
                released_ SHOAL_GUARDED_BY(mutex_) = false;
  proto::Heartbeat message_;  // being written
};

}  // namespace

struct CoordinatorSession::Connection {
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<proto::Cluster::Stub> stub;
};

CoordinatorSession::CoordinatorSession(const std::string& address, const Clock* clock)
    : clock_(clock), connection_(std::make_unique<Connection>()) {
  connection_->channel = plan::Connect(address);
  connection_->stub = proto::Cluster::NewStub(connection_->channel);
}

CoordinatorSession::~CoordinatorSession() = default;

absl::Status CoordinatorSession::Register(const plan::AgentInfo& info, const std::atomic<bool>& stop,
                                          DurationNs* heartbeat_interval) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kRegisterDeadline);
  proto::RegisterRequest request;
  proto::RegisterReply reply;
  plan::ToProto(info, request.mutable_agent());
  Ending ending;
  connection_->stub->async()->Register(&context, &request, &reply,
                                       [&ending](const grpc::Status& status) { ending.Set(status); });
  absl::Status status;
  while (!ending.WaitFor(kPoll, &status)) {
    if (stop.load()) context.TryCancel();
  }
  if (stop.load()) return absl::CancelledError("told to stop");
  *heartbeat_interval = std::clamp<DurationNs>(reply.heartbeat_interval_ns(), kShortestInterval, kLongestInterval);
  return status;
}

absl::Status CoordinatorSession::Beat(DurationNs interval, const std::function<plan::Heartbeat()>& beat,
                                      const std::function<bool()>& due, const std::atomic<bool>& stop) {
  BeatStream stream(*connection_->stub);
  uint64_t sequence = 0;
  TimeNs next = clock_->Now(), last_ran = next;
  absl::Status status;
  while (!stop.load()) {
    const TimeNs now = clock_->Now();
    const DurationNs gap = now - std::exchange(last_ran, now);
    if (gap > kLongestGap) {
      return absl::AbortedError(absl::StrCat("this agent stood still for ", gap / kMillisecond, " ms"));
    }
    if (due() || now >= next) {
      plan::Heartbeat message = beat();
      message.sequence = ++sequence;
      stream.Send(message);
      next = now + interval;
    }
    const auto nap = std::min<std::chrono::nanoseconds>(kPoll, std::chrono::nanoseconds(next - now));
    if (!stream.WaitFor(nap, &status)) continue;
    return status.ok() ? absl::UnavailableError("the coordinator ended the heartbeat stream") : status;
  }
  return absl::CancelledError("told to stop");
}

}  // namespace shoal::agent
