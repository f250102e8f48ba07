// The coordinator's side of the control plane: the gRPC endpoint where agents register and send heartbeats, and the
// connections back to each agent. Turns messages into core events and carries out the effects that concern agents.
// Thread-safe; every method returns at once. gRPC is met nowhere else in the coordinator.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/core/events.h"
#include "coordinator/rpc/stale_tally.h"

namespace shoal::rpc {

struct AgentsOptions {
  std::string listen = "127.0.0.1:0";  // control address; port 0 picks a free one
  bool insecure = false;               // allow an address off loopback, until TLS exists
  uint64_t incarnation = 0;            // of this coordinator, told to agents
  std::string build_id;                // agents of another build are refused at Register, with both ids in the error
  DurationNs heartbeat_interval = 400 * kMillisecond;
  // What is refused here, and what agents say that they have; null: nobody asks.
  std::shared_ptr<StaleTally> stale;
};

class Agents {
 public:
  // `post` receives events from any thread, in order per agent. A lost connection, an ended heartbeat stream or a
  // failed call becomes AgentLost once per registration.
  static absl::StatusOr<std::unique_ptr<Agents>> Start(const AgentsOptions& options,
                                                       std::function<void(core::Event)> post);
  virtual ~Agents() = default;  // cancels all calls and waits for their ends

  virtual std::string address() const = 0;  // with the port really bound

  virtual void Carry(const core::SendJoin& effect) = 0;
  virtual void Carry(const core::SendLoad& effect) = 0;
  virtual void Carry(const core::SendConnect& effect) = 0;
  virtual void Carry(const core::SendPreload& effect) = 0;
  // Plans to one agent leave in the order of these calls, over one stream per epoch.
  virtual void Carry(const core::SendPlan& effect) = 0;
  virtual void Carry(const core::SendAbort& effect) = 0;
  virtual void Carry(const core::SendDrain& effect) = 0;
};

}  // namespace shoal::rpc
