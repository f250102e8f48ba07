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

class CoordinatorSession {
 public:
  // `clock` outlives this.
  CoordinatorSession(const std::string& address, const Clock* clock);
  ~CoordinatorSession();  // cancels, and waits for the ends

  // OK: registered. FailedPrecondition: refused for good. Cancelled: *stop became true. Else try again later.
  absl::Status Register(const plan::AgentInfo& info, const std::atomic<bool>& stop, DurationNs* heartbeat_interval);

  // Sends what `beat` makes at once, then in every interval and soon after `due` has said true, until the stream ends
  // (the status says why), *stop becomes true (Cancelled), or this thread has not run for so long that the coordinator
  // must have given the agent up (Aborted).
  absl::Status Beat(DurationNs interval, const std::function<plan::Heartbeat()>& beat, const std::function<bool()>& due,
                    const std::atomic<bool>& stop);

 private:
  struct Connection;
  const Clock* const clock_;
  std::unique_ptr<Connection> connection_;
};

}  // namespace shoal::agent
