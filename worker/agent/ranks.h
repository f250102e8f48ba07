// The rank processes of one group on this host, with the memory that connects them to the agent: control pages, the
// plan ring, the result rings.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "common/base/mutex.h"
#include "common/plan/control.h"
#include "common/plan/ring.h"
#include "common/plan/wire_setup.h"
#include "worker/agent/pump.h"
#include "worker/agent/rank_watch.h"
#include "worker/agent/supervisor.h"
#include "worker/device/memory.h"
#include "worker/rank/control_page.h"

namespace shoal::agent {

// One rank to be started. The regions are owned by others, and outlive it.
struct RankSpec {
  plan::RankSetup setup;
  int weights_fd = -1, kv_fd = -1, channels_fd = -1;
};

class Ranks {
 public:
  Ranks(std::string binary, std::string log_directory, uint64_t epoch, Outbox* outbox);
  ~Ranks();  // ends them

  // Starts all and waits until each is ready. From the thread that outlives them, once. Aborted: a rank ended (with its
  // cause) or took too long; Cancelled: `cancelled` became true. After any failure End() is still to be called.
  absl::Status Start(std::vector<RankSpec> specs, const std::atomic<bool>& cancelled);

  // Hands one plan to all. Any thread. ResourceExhausted: a rank does not take its plans.
  absl::Status Append(const plan::Stamp& stamp, std::string_view plan) SHOAL_EXCLUDES(ring_mutex_);

  // Any thread. Empty before Start().
  std::vector<plan::RankStatus> Statuses() const SHOAL_EXCLUDES(slots_mutex_);

  // Ends all waits of the ranks; they will end by themselves. Any thread.
  void Abort() SHOAL_EXCLUDES(ring_mutex_, slots_mutex_);
  // Aborts, gives the ranks a moment, kills and reaps. From the thread that started them.
  void End() SHOAL_EXCLUDES(ring_mutex_, slots_mutex_);

 private:
  // What the agent keeps for one rank.
  struct Slot {
    int32_t rank = 0;
    int reader = 0;
    device::SharedMemory control, results;
    rank::ControlPage* page = nullptr;
    std::atomic<bool> dead{false}, stopped{false}, stuck{false};
    std::atomic<int32_t> pid{0};
    std::unique_ptr<ResultPump> pump;
    std::unique_ptr<RankProcess> process;
  };

  absl::Status MakeRing();
  absl::Status StartOne(const RankSpec& spec);
  absl::Status WaitReady(const std::atomic<bool>& cancelled);
  void OnExit(Slot* slot, pid_t pid, const std::string& cause, bool gone);
  void OnStuck(Slot* slot);
  void StartWatch() SHOAL_EXCLUDES(slots_mutex_);
  void Report(const Slot& slot, pid_t pid, const std::string& cause) SHOAL_EXCLUDES(slots_mutex_);
  std::string FirstCause() SHOAL_EXCLUDES(slots_mutex_);

  const std::string binary_, log_directory_;
  const uint64_t epoch_;
  Outbox* const outbox_;
  std::atomic<bool> ending_{false};     // exits are expected from now on
  std::atomic<uint64_t> last_step_{0};  // handed to the ranks

  Mutex ring_mutex_;
  device::SharedMemory ring_memory_ SHOAL_GUARDED_BY(ring_mutex_);
  std::unique_ptr<plan::RingWriter> ring_ SHOAL_GUARDED_BY(ring_mutex_);

  mutable Mutex slots_mutex_;
  std::vector<std::unique_ptr<Slot>> slots_ SHOAL_GUARDED_BY(slots_mutex_);  // changed by the starting thread only
  std::string first_cause_ SHOAL_GUARDED_BY(slots_mutex_);                   // of a rank that ended
  std::unique_ptr<RankWatch> watch_;                                         // of the starting thread
};

}  // namespace shoal::agent
