// The coordinator's gRPC service: agents register and keep a stream of heartbeats. Internal to coordinator/rpc.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "cluster.grpc.pb.h"
#include "coordinator/rpc/agent_link.h"
#include "coordinator/rpc/agents.h"

namespace shoal::rpc {

// Thread-safe.
class ClusterService final : public proto::Cluster::CallbackService {
 public:
  ClusterService(AgentsOptions options, AgentLink::Post post);

  std::shared_ptr<AgentLink> Find(const plan::AgentId& id) SHOAL_EXCLUDES(mutex_);
  StaleTally& stale() { return *options_.stale; }
  // Cancels everything, silently, and refuses what comes later. The links are kept until the destructor.
  void Close() SHOAL_EXCLUDES(mutex_);
  // After the server has ended: until no call is left.
  void WaitForNone() { pending_.WaitForNone(); }

  grpc::ServerUnaryReactor* Register(grpc::CallbackServerContext* context, const proto::RegisterRequest* request,
                                     proto::RegisterReply* reply) override;
  grpc::ServerReadReactor<proto::Heartbeat>* Heartbeats(grpc::CallbackServerContext* context,
                                                        proto::HeartbeatsReply* reply) override;

 private:
  absl::Status Admit(const proto::RegisterRequest& request) SHOAL_EXCLUDES(registering_, mutex_);

  const AgentsOptions options_;
  const AgentLink::Post post_;
  Pending pending_;
  // Held from the moment a registration takes its place until it has been announced: the loss of the one before it and
  // its own arrival leave as one, whoever else registers under the same id. Before mutex_.
  Mutex registering_;
  Mutex mutex_;
  bool closed_ SHOAL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_map<plan::AgentId, std::shared_ptr<AgentLink>> links_ SHOAL_GUARDED_BY(mutex_);
  // Of registrations that are over, for as long as a call holds them. A call ends on one of gRPC's callback threads,
  // and those are joined by whoever closes the last connection: it must never be one of them (README, "The end").
  std::vector<std::shared_ptr<AgentLink>> former_ SHOAL_GUARDED_BY(mutex_);
};

}  // namespace shoal::rpc
