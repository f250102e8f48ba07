// The rank processes of one group on this host, with the memory that connects them to the agent: control pages, the
// plan ring, the result rings.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "common/base/mutex.h"
#include "common/plan/control.h"
#include "common/plan/ring.h"
#include "common/plan/wire_setup.h"
#include "worker/agent/device_faults.h"
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
  std::vector<std::string> environment = {};  // as SpawnCall's
};

class Ranks {
 public:
  // What outlives this agent's groups. `stale` gets what ranks have counted once they are gone.
  struct Counters {
    plan::StaleCounters* stale = nullptr;
    DeviceFaults* faults = nullptr;
  };
  Ranks(std::string binary, std::string log_directory, uint64_t epoch, Outbox* outbox, const Counters& counters);
  ~Ranks();  // ends them

  // Starts all. From the thread that outlives them, once. After any failure, here or below, End() is still to be
  // called.
  absl::Status Start(const std::vector<RankSpec>& specs);
  // Waits until each has published its address, for transports that need one; then what they have published. Aborted: a
  // rank ended (with its cause) or took too long; FailedPrecondition: one ended and would again (ControlPage.refused);
  // Cancelled: `cancelled` became true; DataLoss: not what a rank publishes.
  absl::StatusOr<std::vector<plan::RankAddress>> AwaitAddresses(const std::atomic<bool>& cancelled);
  // Hands them the addresses of the whole group. InvalidArgument: more than the plan ring can carry.
  absl::Status Connect(const plan::ConnectRanks& connect) SHOAL_EXCLUDES(ring_mutex_);
  // Waits until each is ready. Errors as above.
  absl::Status AwaitReady(const std::atomic<bool>& cancelled);
  // Aborted or FailedPrecondition, as above, once a rank has ended by itself. Any thread.
  absl::Status Alive() SHOAL_EXCLUDES(slots_mutex_);

  // Hands one plan to all. Any thread. ResourceExhausted: a rank does not take its plans.
  absl::Status Append(const plan::Stamp& stamp, std::string_view plan) SHOAL_EXCLUDES(ring_mutex_);

  // Any thread. Empty before Start().
  std::vector<plan::RankStatus> Statuses() const SHOAL_EXCLUDES(slots_mutex_);
  // Plans that they have passed over. Any thread.
  uint64_t StaleRecords() const SHOAL_EXCLUDES(slots_mutex_);

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
    std::optional<plan::RingReader> from_rank;  // until the pump has it
    std::unique_ptr<ResultPump> pump;
    std::unique_ptr<RankProcess> process;
  };

  absl::Status MakeRing();
  absl::Status StartOne(const RankSpec& spec);
  std::vector<Slot*> Slots() SHOAL_EXCLUDES(slots_mutex_);
  // Waits until every rank is in this state, and can be heard.
  absl::Status AwaitState(plan::RankState state, const std::atomic<bool>& cancelled);
  void OnExit(Slot* slot, pid_t pid, const std::string& cause, bool gone);
  void OnStuck(Slot* slot);
  void StartWatch() SHOAL_EXCLUDES(slots_mutex_);
  void Report(const Slot& slot, pid_t pid, const std::string& cause) SHOAL_EXCLUDES(slots_mutex_);

  const std::string binary_, log_directory_;
  const uint64_t epoch_;
  Outbox* const outbox_;
  const Counters counters_;
  std::atomic<bool> ending_{false};     // exits are expected from now on
  std::atomic<uint64_t> last_step_{0};  // handed to the ranks

  Mutex ring_mutex_;
  device::SharedMemory ring_memory_ SHOAL_GUARDED_BY(ring_mutex_);
  std::unique_ptr<plan::RingWriter> ring_ SHOAL_GUARDED_BY(ring_mutex_);

  mutable Mutex slots_mutex_;
  std::vector<std::unique_ptr<Slot>> slots_ SHOAL_GUARDED_BY(slots_mutex_);  // changed by the starting thread only
  absl::Status first_end_ SHOAL_GUARDED_BY(slots_mutex_);                    // of a rank, as Alive() tells it
  std::unique_ptr<RankWatch> watch_;                                         // of the starting thread
};

}  // namespace shoal::agent
