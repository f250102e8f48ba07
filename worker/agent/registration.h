// One connection to the coordinator: Register, then heartbeats until it breaks. Made anew for every attempt, so that
// names are resolved again and no back-off is inherited. Internal to worker/agent; used by one thread.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "common/plan/control.h"

namespace shoal::agent {

// What the coordinator answered.
struct Registered {
  uint64_t coordinator = 0;  // incarnation
  DurationNs heartbeat_interval = 0;
};

class CoordinatorSession {
 public:
  explicit CoordinatorSession(const std::string& address);
  ~CoordinatorSession();  // cancels, and waits for the ends

  // OK: registered. FailedPrecondition: refused for good. Cancelled: *stop became true. Else try again later.
  absl::Status Register(const plan::AgentInfo& info, const std::atomic<bool>& stop, Registered* registered);

  // Sends what `beat` makes at once and then in every interval, until the stream ends (the status says why), *stop
  // becomes true (Cancelled), or this thread has not run for so long that the coordinator must have given the agent up
  // (Aborted).
  absl::Status Beat(DurationNs interval, const std::function<plan::Heartbeat()>& beat, const std::atomic<bool>& stop);

 private:
  struct Connection;
  std::unique_ptr<Connection> connection_;
};

}  // namespace shoal::agent
