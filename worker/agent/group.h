// The part of one group that lives on this host, from JoinGroup until a newer epoch, an abort, or the coordinator's
// loss ends it. The shelf outlives it.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "common/plan/control.h"
#include "worker/agent/channels.h"
#include "worker/agent/join.h"
#include "worker/agent/pump.h"
#include "worker/agent/ranks.h"
#include "worker/agent/shelf.h"

namespace shoal::agent {

// What a group needs to know of its agent.
struct GroupContext {
  plan::AgentInfo self;
  std::string rank_host;  // of this machine, where ranks listen for those of other agents
  std::string rank_binary;
  std::string log_directory;
  int cores = 1;
  CudaDevices* cuda = nullptr;  // behind the slots; null: the host is
  Shelf* shelf = nullptr;
  plan::StaleCounters* stale = nullptr;  // of the agent
  DeviceFaults* faults = nullptr;        // the same
};

class Group {
 public:
  // Opens the model and makes the group's channels when rank 0 is here. `reply`: filled on success.
  static absl::StatusOr<std::shared_ptr<Group>> Join(const plan::JoinGroup& join, const GroupContext& context,
                                                     plan::JoinReply* reply);
  ~Group();  // Load() and End() on the same thread

  uint64_t epoch() const { return epoch_; }
  uint64_t coordinator() const { return coordinator_; }
  Outbox& outbox() { return outbox_; }

  // Loads what is missing, starts the ranks and waits for them; where the transport needs addresses, reports those of
  // the ranks and waits for Connect(). Blocks. `report` gets every state but the last, which is returned. Once: after a
  // failure the group can only be ended, and another call is FailedPrecondition. InvalidArgument: limits other than
  // those of the join, but for the blocks and a shorter model length.
  absl::StatusOr<plan::LoadProgress> Load(const plan::LoadModel& load,
                                          const std::function<void(const plan::LoadProgress&)>& report);
  // The addresses of all ranks of the group, once Load() has reported those of the ranks here. Any thread.
  // InvalidArgument: not as many as ranks; FailedPrecondition: nobody waits for them.
  absl::Status Connect(plan::ConnectRanks connect) SHOAL_EXCLUDES(connect_mutex_);
  // The ranks are up. Any thread.
  bool loaded() const { return loaded_.load(std::memory_order_acquire); }

  // A plan for all ranks here. One of another epoch or coordinator is dropped and counted. Any thread.
  absl::Status Append(const plan::Stamp& stamp, std::string_view plan);

  std::vector<plan::RankStatus> Statuses() const;
  // Plans that the ranks here have passed over; those of ranks that are gone are in the agent's counters.
  uint64_t StaleRecords() const { return ranks_.StaleRecords(); }

  // Load() ends soon, and ranks stop waiting. Any thread.
  void Cancel();
  // Cancels; kills and reaps the ranks; ends the step stream with `why`.
  void End(const absl::Status& why);

 private:
  Group(std::unique_ptr<Joined> joined, const GroupContext& context);
  absl::StatusOr<const Shelf::KvRegion*> KvRegion(const LocalRank& local, int64_t bytes);
  absl::StatusOr<std::vector<RankSpec>> MakeSpecs(const plan::MirrorLimits& limits,
                                                  std::vector<plan::LoadProgress::Cache>* caches);
  std::string RankName(int32_t rank) const;  // among all ranks anywhere
  absl::Status CheckLimits(const plan::MirrorLimits& limits) const;
  absl::Status OpenChannels(const plan::MirrorLimits& limits);
  bool shares_memory() const { return joined_->transport == comm::Transport::kShm; }
  // Reports what the ranks here have published, and hands them what all of them have.
  absl::Status Rendezvous(const std::function<void(const plan::LoadProgress&)>& report, plan::LoadProgress progress);

  const uint64_t epoch_, coordinator_;
  const GroupContext context_;
  const std::unique_ptr<Joined> joined_;
  std::atomic<bool> cancelled_{false}, loaded_{false}, first_plan_seen_{false};
  bool load_begun_ = false;  // of Load()'s thread
  Outbox outbox_;
  Ranks ranks_;
  Mutex channels_mutex_;
  Channels channels_ SHOAL_GUARDED_BY(channels_mutex_);
  Mutex connect_mutex_;
  CondVar connect_came_;
  bool connect_wanted_ SHOAL_GUARDED_BY(connect_mutex_) = false;
  std::optional<plan::ConnectRanks> connect_ SHOAL_GUARDED_BY(connect_mutex_);
};

}  // namespace shoal::agent
