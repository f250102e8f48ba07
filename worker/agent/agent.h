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
  // Ranks this host can run. With "cuda": the first so many usable devices, 0 for all.
  int slots = 1;
  int threads = 0;                           // per rank; 0: cores / slots, at least 1
  int64_t memory_bytes = 0;                  // of all slots together; 0: half of what the host has available
  std::string device = "cpu";                // kind of its slots
  std::vector<int> device_ids;               // the CUDA device of each slot, or empty: CudaDevices::Wanted
  double gpu_memory_utilization = 0.9;       // of each CUDA device, the part that may be in use
  DurationNs orphan_timeout = 60 * kSecond;  // without a coordinator: then it ends its ranks and exits
  std::string rank_binary;                   // runs `rank` and `maker`; empty: this program (/proc/self/exe)
  std::string build_id;                      // told to the coordinator; empty: BuildId()
  std::string log_directory;                 // where ranks' stderr goes; empty: inherited
  std::function<void()> on_registered;       // each time, on RunAgent's thread; may be null
};

// Runs until *stop is true (OK; all ranks ended and reaped), the orphan time-out passes (Unavailable), or the
// coordinator refuses it for good (FailedPrecondition: another build). FailedPrecondition, too, when its slots would be
// on CUDA devices that cannot be used.
absl::Status RunAgent(const AgentOptions& options, const std::atomic<bool>& stop);

}  // namespace shoal::agent
