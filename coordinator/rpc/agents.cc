#include "coordinator/rpc/agents.h"

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/plan/wire_grpc.h"
#include "coordinator/rpc/cluster_service.h"

namespace shoal::rpc {
namespace {

// What cancelled calls get to end by themselves before the server closes their connections.
constexpr auto kServerGrace = std::chrono::milliseconds(200);

class AgentsImpl final : public Agents {
 public:
  AgentsImpl(const AgentsOptions& options, std::function<void(core::Event)> post)
      : service_(options, std::move(post)) {}

  ~AgentsImpl() override {
    service_.Close();
    if (server_ != nullptr) {
      server_->Shutdown(std::chrono::system_clock::now() + kServerGrace);
      server_->Wait();
    }
    service_.WaitForNone();
  }

  absl::Status Listen(const std::string& address) {
    grpc::ServerBuilder builder;
    int port = 0;
    plan::ConfigureServer(address, builder, &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port == 0) {
      return absl::UnavailableError(absl::StrCat("cannot listen for agents on ", address,
                                                 ": is the port in use, or the address not of this host?"));
    }
    const size_t colon = address.rfind(':');
    address_ = absl::StrCat(address.substr(0, colon), ":", port);
    return absl::OkStatus();
  }

  std::string address() const override { return address_; }

  // An agent that is not (or no longer) registered is passed over: its loss has been posted.
  void Carry(const core::SendJoin& effect) override {
    if (const auto link = service_.Find(effect.agent)) link->Join(effect);
  }
  void Carry(const core::SendLoad& effect) override {
    if (const auto link = service_.Find(effect.agent)) link->Load(effect);
  }
  void Carry(const core::SendConnect& effect) override {
    if (const auto link = service_.Find(effect.agent)) link->Connect(effect);
  }
  void Carry(const core::SendPreload& effect) override {
    if (const auto link = service_.Find(effect.agent)) link->Preload(effect);
  }
  void Carry(const core::SendPlan& effect) override {
    for (const plan::AgentId& agent : effect.agents) {
      if (const auto link = service_.Find(agent)) link->SendPlan(effect);
    }
  }
  void Carry(const core::SendAbort& effect) override {
    if (const auto link = service_.Find(effect.agent)) link->Abort(effect);
  }
  void Carry(const core::SendDrain& effect) override {
    if (const auto link = service_.Find(effect.agent)) link->Drain(effect);
  }

 private:
  ClusterService service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Agents>> Agents::Start(const AgentsOptions& options,
                                                      std::function<void(core::Event)> post) {
  if (!options.insecure && !plan::IsLoopback(options.listen)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the control address ", options.listen,
                     " can be reached from other hosts and has no TLS yet: say --insecure "
                     "to allow it"));
  }
  AgentsOptions complete = options;
  if (complete.stale == nullptr) complete.stale = std::make_shared<StaleTally>();
  auto agents = std::make_unique<AgentsImpl>(complete, std::move(post));
  if (absl::Status listening = agents->Listen(options.listen); !listening.ok()) return listening;
  return agents;
}

}  // namespace shoal::rpc
