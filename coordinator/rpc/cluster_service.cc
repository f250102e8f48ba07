// Tested by: tests/rpc/agents_test.cc
#include "coordinator/rpc/cluster_service.h"

#include <grpcpp/server_context.h>

#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/plan/wire.h"
#include "common/plan/wire_grpc.h"

namespace shoal::rpc {
namespace {

// The stream of one registration: found by the first message, lost with the stream's end.
class HeartbeatStream final : public Call, public grpc::ServerReadReactor<proto::Heartbeat> {
 public:
  HeartbeatStream(ClusterService* service, Pending& pending) : Call(pending), service_(service) {}

  void Start(std::shared_ptr<HeartbeatStream> self) {
    self_ = std::move(self);
    StartRead(&message_);
  }
  void Cancel(const std::string& reason) override { End(absl::AbortedError(reason)); }

 private:
  void End(const absl::Status& status) {
    if (!finished_.exchange(true)) Finish(plan::ToGrpc(status));
  }

  absl::Status Accept() {
    SHOAL_ASSIGN_OR_RETURN(plan::Heartbeat heartbeat, plan::FromProto(message_));
    if (link_ == nullptr) {
      link_ = service_->Find(heartbeat.agent);
      if (link_ == nullptr || link_->info().incarnation != heartbeat.incarnation || !link_->Enter(self_)) {
        link_.reset();
        service_->stale().Count(plan::StalePlace::kHeartbeat);
        return absl::NotFoundError("not registered here: register first");
      }
    }
    if (heartbeat.agent != link_->info().id) return absl::InvalidArgumentError("a heartbeat of another agent");
    link_->stale().Hear(heartbeat.agent, heartbeat.stale);
    if (!link_->Deliver(core::HeartbeatReceived{std::move(heartbeat)})) {
      link_->stale().Count(plan::StalePlace::kHeartbeat);
    }
    return absl::OkStatus();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return End(absl::OkStatus());
    const absl::Status accepted = Accept();
    if (!accepted.ok()) return End(accepted);
    StartRead(&message_);
  }
  void OnCancel() override { End(absl::CancelledError("the agent went away")); }
  void OnDone() override {
    const std::shared_ptr<HeartbeatStream> self = std::move(self_);
    if (link_ == nullptr) return;
    link_->Leave(this);
    link_->Lose("its heartbeat stream ended");
  }

  ClusterService* const service_;
  std::shared_ptr<AgentLink> link_;  // set by the first message
  proto::Heartbeat message_;
  std::atomic<bool> finished_{false};
  std::shared_ptr<HeartbeatStream> self_;  // until OnDone
};

}  // namespace

ClusterService::ClusterService(AgentsOptions options, AgentLink::Post post)
    : options_(std::move(options)), post_(std::move(post)) {}

std::shared_ptr<AgentLink> ClusterService::Find(const plan::AgentId& id) {
  MutexLock lock(mutex_);
  const auto it = links_.find(id);
  return it == links_.end() ? nullptr : it->second;
}

void ClusterService::Close() {
  std::vector<std::shared_ptr<AgentLink>> open;
  {
    MutexLock lock(mutex_);
    closed_ = true;
    for (const auto& [id, link] : links_) open.push_back(link);
    links_.clear();
    former_.insert(former_.end(), open.begin(), open.end());
  }
  for (const auto& link : open) link->Close();
}

absl::Status ClusterService::Admit(const proto::RegisterRequest& request) {
  SHOAL_ASSIGN_OR_RETURN(plan::AgentInfo info, plan::FromProto(request.agent()));
  if (info.build_id != options_.build_id) {
    return absl::FailedPreconditionError(absl::StrCat("agent ", info.hostname, " is of build ", info.build_id,
                                                      ", the coordinator of build ", options_.build_id,
                                                      ": a cluster runs one build"));
  }
  const auto link = std::make_shared<AgentLink>(info, options_.incarnation, &post_, &pending_, options_.stale);
  std::shared_ptr<AgentLink> former;
  MutexLock registering(registering_);
  {
    MutexLock lock(mutex_);
    if (closed_) return absl::UnavailableError("the coordinator is ending");
    for (const auto& [id, other] : links_) {
      if (other->lost()) former_.push_back(other);
    }
    absl::erase_if(links_, [](const auto& entry) { return entry.second->lost(); });
    // The server holds the callback threads as long as it takes registrations: here a connection may close.
    std::erase_if(former_, [](const auto& ended) { return ended.use_count() == 1; });
    former = std::exchange(links_[info.id], link);
    if (former != nullptr) former_.push_back(former);
  }
  if (former != nullptr) former->Lose("it has registered again");
  link->Deliver(core::AgentRegistered{std::move(info)});
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* ClusterService::Register(grpc::CallbackServerContext* context,
                                                   const proto::RegisterRequest* request, proto::RegisterReply* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::Status admitted = Admit(*request);
  reply->set_coordinator_incarnation(options_.incarnation);
  reply->set_heartbeat_interval_ns(options_.heartbeat_interval);
  reactor->Finish(plan::ToGrpc(admitted));
  return reactor;
}

grpc::ServerReadReactor<proto::Heartbeat>* ClusterService::Heartbeats(grpc::CallbackServerContext*,
                                                                      proto::HeartbeatsReply*) {
  auto stream = std::make_shared<HeartbeatStream>(this, pending_);
  HeartbeatStream* const reactor = stream.get();
  reactor->Start(std::move(stream));
  return reactor;
}

}  // namespace shoal::rpc
