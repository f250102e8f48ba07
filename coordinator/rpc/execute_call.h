// The step stream of one epoch to one agent: plans out in order, results and rank exits in. Internal to
// coordinator/rpc.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <deque>
#include <memory>
#include <string>

#include "coordinator/rpc/agent_link.h"
#include "worker.grpc.pb.h"

namespace shoal::rpc {

class ExecuteCall final : public Call, private grpc::ClientBidiReactor<proto::ExecuteRequest, proto::ExecuteReply> {
 public:
  ExecuteCall(std::shared_ptr<AgentLink> link, uint64_t epoch);

  // Once, after the link holds it. `self`: this.
  void Start(std::shared_ptr<ExecuteCall> self);
  // Never waits: frames leave in the order of the calls, one at a time. Dropped after the stream's end.
  void Send(const plan::Stamp& stamp, const std::string& plan) SHOAL_EXCLUDES(mutex_);
  void Cancel(const std::string& reason) override;
  uint64_t epoch() const override { return epoch_; }

 private:
  void Queue(proto::ExecuteRequest frame) SHOAL_REQUIRES(mutex_);
  absl::Status Accept();

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  const std::shared_ptr<AgentLink> link_;
  const uint64_t epoch_;
  grpc::ClientContext context_;
  std::unique_ptr<proto::Worker::Stub> stub_;
  proto::ExecuteReply reply_;          // of the outstanding read
  std::shared_ptr<ExecuteCall> self_;  // until OnDone

  Mutex mutex_;
  bool open_ SHOAL_GUARDED_BY(mutex_) = true;                         // writes may still be started
  std::deque<proto::ExecuteRequest> queue_ SHOAL_GUARDED_BY(mutex_);  // front: being written
};

}  // namespace shoal::rpc
