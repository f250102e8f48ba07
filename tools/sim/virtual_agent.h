// An agent's process: registers, beats, and runs its part of a group, as worker/agent does. Owns weights and KV caches,
// which outlive groups and coordinators and end with it. Messages come from the network; while the process stands still
// they wait, while its ranks go on with the plans they have. Not thread-safe.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tools/sim/virtual_coordinator.h"
#include "tools/sim/virtual_ranks.h"

namespace shoal::sim {

struct AgentSpec {
  std::string id;
  int slots = 1;
  std::string boot_id = "boot";
  uint64_t highest_epoch = 0;
  std::string numerics_id = "numerics";
  std::vector<int32_t> held_ranks{};
  std::string held_model{};
  int64_t memory_bytes = 1 << 20;
  int64_t kv_bytes_per_block = 1024;
  absl::Status join_error{};
  absl::Status load_error{};
  absl::Status preload_error{};
  DurationNs preload_takes = 20 * kMillisecond;
};

struct AgentTimes {
  DurationNs join = 5 * kMillisecond, start = 5 * kMillisecond;  // at most
  DurationNs read = 0;                                           // of the weights of one rank, at most
};

// What an agent meets outside.
struct AgentSurroundings {
  World* world;
  Network* network;
  VirtualCoordinator* coordinator;
  AgentTimes times;
  std::string build_id;
  uint64_t* cache_ids;  // the last one that was given
  bool* repeat_answers;
  // The ranks of a group, wherever they are: of its coordinator's epoch.
  std::function<std::shared_ptr<VirtualRanks>(const plan::JoinGroup& join)> ranks_of;
  std::function<void(const VirtualAgent& reader, int32_t rank)> on_read;
};

class VirtualAgent : public std::enable_shared_from_this<VirtualAgent> {
 public:
  VirtualAgent(const AgentSpec& spec, uint64_t incarnation, const AgentSurroundings& around);

  // Registers as soon as the network lets it; `at_once`: the coordinator has heard of it when this returns.
  void Start(bool at_once);

  // --- From the coordinator ---
  void Join(const LinkPtr& link, const plan::JoinGroup& join);
  void Load(const LinkPtr& link, const plan::LoadModel& load);
  void Connect(const LinkPtr& link, const plan::ConnectRanks& connect);
  void Preload(const LinkPtr& link, const plan::JoinGroup& join);
  void Plan(const std::shared_ptr<const plan::StepPlan>& plan);
  void Abort(uint64_t epoch);
  void Drain(uint64_t epoch, plan::DrainState state);
  void SessionEnded(const LinkPtr& link, const std::string& reason);

  // --- Faults ---
  void Die();
  void Freeze(bool ranks_too);
  void Thaw();
  // False: there is no such rank here, or nothing of it that could be killed.
  bool KillRank(int32_t rank, const std::string& cause);
  void RefuseJoins(const absl::Status& why) { spec_.join_error = why; }
  void RefuseLoads(const absl::Status& why) { spec_.load_error = why; }
  void RefusePreloads(const absl::Status& why) { spec_.preload_error = why; }
  void ForgetWeights() { weights_.clear(); }

  const std::string& id() const { return spec_.id; }
  const AgentSpec& spec() const { return spec_; }
  uint64_t incarnation() const { return incarnation_; }
  bool alive() const { return alive_; }
  bool frozen() const { return frozen_; }
  const LinkPtr& session() const { return session_; }
  uint64_t epoch() const { return highest_epoch_; }
  plan::DrainState drain() const { return drain_; }  // as it says itself
  bool Holds(int32_t rank) const { return weights_.contains(rank); }
  const std::string& weights_key() const { return weights_key_; }  // of what, and how it was cut
  int preloads() const { return preloads_; }                       // that it was asked for
  int64_t bytes_read() const { return bytes_read_; }               // of weights: 1000 for a rank
  // It has the weights, or had them when it was asked to join its present group.
  bool Had(int32_t rank) const { return Holds(rank) || (group_ != nullptr && group_->held.contains(rank)); }
  std::vector<int32_t> Ranks() const;  // that run here
  // Since then nothing has been done to it that a coordinator may hold against it.
  TimeNs troubled_at() const { return troubled_at_; }
  void Troubled();

 private:
  struct Group {
    LinkPtr link;
    plan::JoinGroup join;
    std::vector<int32_t> ranks;
    std::set<int32_t> held;  // weights, cut as it wants them, before any were dropped for it
    int64_t bytes_read = 0;
    Network::StreamPtr answers = Network::NewStream(), progress = Network::NewStream();
    bool load_begun = false, starting = false, failed = false, loaded = false;
    bool published = false, connected = false;  // where ranks need each other's addresses
    plan::MirrorLimits limits;                  // once its ranks are starting
    std::optional<plan::PlanMirror> mirror;
    std::shared_ptr<VirtualRanks> all;
  };
  using GroupPtr = std::shared_ptr<Group>;

  void Do(std::function<void()> what);
  void Register();
  void Registered(uint64_t attempt, const LinkPtr& link);
  void Beat(const LinkPtr& link);
  void Tell(const LinkPtr& link, const Network::StreamPtr& stream, const core::Event& event);
  void EndGroup();
  absl::Status Enter(uint64_t epoch, bool joining);
  void AnswerJoin(const LinkPtr& link, const plan::JoinGroup& join);
  plan::JoinReply Reply(const plan::JoinGroup& join) const;  // what a join for these ranks is answered with
  // Shards of other ranks than these, or of another layout, go.
  void KeepOnly(const plan::JoinGroup& join);
  void Preloaded(const LinkPtr& link, const Network::StreamPtr& stream, const plan::JoinGroup& join);
  void ReadNext(const GroupPtr& group, const plan::LoadModel& load, size_t next);
  void StartRanks(const GroupPtr& group, const plan::LoadModel& load);
  void Publish(const GroupPtr& group);
  void RanksStarted(const GroupPtr& group);
  std::shared_ptr<Cache> CacheOf(int32_t rank, const plan::MirrorLimits& limits, uint64_t coordinator);
  void Answer(const GroupPtr& group, const plan::StepResult& result);
  void LoadFails(const GroupPtr& group, const absl::Status& why);
  plan::AgentInfo Info() const;

  AgentSpec spec_;
  const uint64_t incarnation_;
  const AgentSurroundings around_;
  bool alive_ = true, frozen_ = false;
  TimeNs frozen_at_ = 0;
  TimeNs troubled_at_ = -3600 * kSecond;     // long ago
  std::vector<std::function<void()>> held_;  // while it stands still
  LinkPtr session_;
  uint64_t attempt_ = 0;
  DurationNs retry_;
  uint64_t highest_epoch_, joined_epoch_ = 0;
  plan::DrainState drain_ = plan::DrainState::kNone;
  std::string weights_key_;
  std::set<int32_t> weights_;
  int64_t bytes_read_ = 0;
  int preloads_ = 0;
  std::map<int32_t, std::shared_ptr<Cache>> caches_;  // by rank
  GroupPtr group_;
};

}  // namespace shoal::sim
