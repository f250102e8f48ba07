// The agent's gRPC endpoint: turns calls into commands of Control and carries the step stream. Internal to
// worker/agent.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/agent/control.h"

namespace shoal::agent {

// Thread-safe.
class Endpoint {
 public:
  // Binds at once (port 0 picks one) and refuses calls with Aborted until Serve() names who answers them.
  // Unavailable: the address cannot be had.
  static absl::StatusOr<std::unique_ptr<Endpoint>> Listen(const std::string& address);
  virtual ~Endpoint() = default;  // ends all calls; `control` must have been stopped, so that none waits for it

  virtual int port() const = 0;
  virtual void Serve(Control* control) = 0;
};

}  // namespace shoal::agent
