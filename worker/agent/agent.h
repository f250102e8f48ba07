// The agent of one host: the only gRPC endpoint there, parent of one rank process per device slot, owner of the memory
// of weights, KV and channels. Registers with the coordinator, retries while it is away, and outlives it for a while.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/clock.h"

namespace shoal::agent {

struct AgentOptions {
  std::string coordinator;             // "host:port" of its control endpoint
  std::string listen = "127.0.0.1:0";  // off loopback only with `insecure`, until TLS exists
  std::string advertise;               // "host:port" that reaches it from the coordinator; empty: where it listens
  bool insecure = false;
  int slots = 1;                             // ranks this host can run
  int threads = 0;                           // per rank; 0: cores / slots, at least 1
  int64_t memory_bytes = 0;                  // of all slots together; 0: half of what the host has available
  std::string device = "cpu";                // kind of its slots
  DurationNs orphan_timeout = 60 * kSecond;  // without a coordinator: then it ends its ranks and exits
  std::string rank_binary;                   // executable that runs `rank`; empty: this one (/proc/self/exe)
  std::string build_id;                      // told to the coordinator; empty: BuildId()
  std::string log_directory;                 // where ranks' stderr goes; empty: inherited
  std::function<void()> on_registered;       // each time, on RunAgent's thread; may be null
};

// Runs until *stop is true (OK; all ranks ended and reaped), the orphan time-out passes (Unavailable), or the
// coordinator refuses it for good (FailedPrecondition: another build).
absl::Status RunAgent(const AgentOptions& options, const std::atomic<bool>& stop);

}  // namespace shoal::agent
