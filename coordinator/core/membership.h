// Agents, and the one group that is formed from them: registered -> joining -> loading -> ready, and back to the start
// with a new epoch when anything of it is lost. Knows nothing of requests.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/plan/shard_plan.h"
#include "coordinator/core/core.h"
#include "coordinator/core/effects.h"
#include "coordinator/core/report.h"

namespace shoal::core {

class Membership {
 public:
  using Phase = ClusterState::Phase;

  explicit Membership(const CoreOptions& options);

  // --- Events. What is not of this epoch, or from where it should not come, is ignored and counted. ---
  void Registered(const plan::AgentInfo& info, TimeNs now, EffectList& fx);
  void AgentLost(const plan::AgentId& agent, const std::string& reason, TimeNs now, EffectList& fx);
  void Heartbeat(const plan::Heartbeat& heartbeat, TimeNs now, EffectList& fx);
  void JoinAnswered(const core::JoinAnswered& answer, TimeNs now, EffectList& fx);
  void LoadAdvanced(const core::LoadAdvanced& advance, TimeNs now, EffectList& fx);
  void LoadFailed(const core::LoadFailed& failure, TimeNs now, EffectList& fx);
  void RankExited(const core::RankExited& exited, TimeNs now, EffectList& fx);
  // A rank broke the rules or refused a plan.
  void Broken(int32_t rank, const std::string& why, TimeNs now, EffectList& fx);
  // Nobody gets on with the plans that were sent.
  void Stalled(int32_t rank, const std::string& why, TimeNs now, EffectList& fx);
  // Ranks compute wrongly, `rank` above all (-1: nobody knows which): what they wrote is not used again. Precondition:
  // ready. The next attempt comes a little later, and the later the more `failures` there were without a sign that it
  // was put right.
  void Distrusted(int32_t rank, const std::string& why, int32_t failures, TimeNs now, EffectList& fx);
  void Drain(const plan::AgentId& agent, TimeNs now, EffectList& fx);
  void PreloadAdvanced(const core::PreloadAdvanced& advance, TimeNs now, EffectList& fx);
  void PreloadFailed(const core::PreloadFailed& failure, TimeNs now, EffectList& fx);
  void Timer(TimeNs now, EffectList& fx);
  TimeNs NextTimer() const;  // 0: none wanted

  Phase phase() const { return phase_; }  // never kDraining
  const std::string& detail() const { return detail_; }
  uint64_t epoch() const { return epoch_; }
  const std::string& numerics_id() const { return numerics_id_; }
  // The last loss may have been caused by a step: a rank died of it, or refused it.
  bool blamed() const { return blamed_; }
  const std::string& loss() const { return loss_; }
  // Of the last group that was ready and has been lost: who, and how all stood before.
  const Culprit& culprit() const { return culprit_; }
  const ClusterState& before_loss() const { return before_loss_; }
  const plan::MirrorLimits& limits() const { return limits_; }  // final once ready
  // Every rank of the group that is ready has the very cache that it had in the one before, with the same meaning.
  bool kv_kept() const { return kv_kept_; }
  std::vector<plan::AgentId> GroupAgents() const;             // in rank order
  bool Owns(const plan::AgentId& agent, int32_t rank) const;  // in the present group
  const Layout& layout() const { return layout_; }            // of the present group or attempt
  int32_t ranks() const { return layout_.ranks(); }
  // The group that is ready computes otherwise than the one before: with another layout, or under other numerics.
  bool reformed() const { return reformed_; }
  // The present group's ranks exchange data without their hosts.
  bool between_devices() const { return transport_ == kBetweenDevices; }
  // The replacement did not come in time, and a group with fewer ranks is being formed.
  bool shrinking() const { return forming() && may_shrink_ && !(layout_ == asked_); }

  // All that the ranks of draining agents need is on others: once no plan is unanswered, HandOver ends the group and
  // forms it there. No plan may be sent meanwhile.
  bool handover_ready() const { return handover_ready_; }
  void HandOver(TimeNs now, EffectList& fx);
  // With fewer ranks than asked for while there are agents for all of them: ends the group and forms it with all. To be
  // called while nobody waits for an answer, nor is about to.
  void Grow(TimeNs now, EffectList& fx);
  bool may_grow() const { return phase_ == Phase::kReady && grow_ && !(layout_ == asked_); }
  // How often a group that is loading got on: more bytes, or a step further. Attempts after some that failed in the
  // same outage are not counted, so that it ends.
  uint64_t load_steps() const { return load_steps_; }
  // When the next attempt comes, after one that failed; 0: at once, or as soon as there are agents.
  TimeNs retry_at() const { return retry_at_; }
  // From now on a ready group that is lost by the fault of a step is formed again a little later, and the later the
  // higher `failures`; 0: at once.
  void SetCaution(int32_t failures) { caution_ = failures; }

  void Fill(ClusterState* state, TimeNs now) const;
  void CheckInvariants() const;

 private:
  // Weights that an agent reads while the group that will need them has not been formed.
  struct Preload {
    enum class State : uint8_t { kNone, kRunning, kDone, kUnfit } state = State::kNone;
    uint64_t epoch = 0;  // under which it was asked for: none that the agent takes for over
    std::vector<plan::RankAssignment> ranks;
    plan::JoinReply reply;
    plan::LoadProgress progress;
    TimeNs deadline = 0;  // while kRunning
  };
  // Which draining agents may have ranks: those that had some in the last group, for no more than that; none; all.
  enum class Draining : uint8_t { kStay, kNone, kAll };
  // Where a group was tried in this outage, and how bad that was.
  struct Tried {
    PlacedLayout place;
    int32_t failures = 0;
  };
  // What a failed attempt counts, of those that make a place or an agent come behind others: one that would fail again,
  // 3 that may pass, 12 for which somebody outside killed a rank.
  enum class Failure : uint8_t { kFromOutside = 1, kMayPass = 4, kForGood = 12 };
  static constexpr int32_t kWornOut = 12;
  static Failure FailureOf(std::string_view cause);  // of one that may pass
  struct Agent {
    plan::AgentInfo info;
    uint64_t order = 0;      // of registration
    DurationNs silence = 0;  // counted only while our own timer ran on schedule
    TimeNs heard = 0;
    bool silent = false;  // not used until it is heard again
    std::vector<plan::RankStatus> ranks;
    bool joined = false, loaded = false;  // in this epoch
    plan::JoinReply reply;
    plan::LoadProgress progress;
    std::vector<plan::RankAddress> addresses;  // of its ranks; empty: not published yet
    // That it was told to read since it registered, cut so: it holds their weights, or some of them, and no others.
    std::vector<int32_t> told;
    Layout told_layout;
    bool draining = false, drained = false;
    bool served = false;   // had ranks when a group was ready last
    int32_t failures = 0;  // of attempts in this outage that it is to blame for; see put_off
    Preload preload;
    bool preloaded = false;  // it was told to read for a handover, and has been in no group since
    plan::DrainState drain() const {
      return drained ? plan::DrainState::kDrained : draining ? plan::DrainState::kDraining : plan::DrainState::kNone;
    }
    bool put_off() const { return failures >= kWornOut; }  // others go first
  };

  void TryForm(TimeNs now, EffectList& fx);
  void Form(PlacedLayout place, TimeNs now, EffectList& fx);
  // Where the next group goes: the first of Places() that has not failed in this outage; when all have, from the start.
  // Unavailable: what is being waited for.
  absl::StatusOr<PlacedLayout> ChoosePlace();
  // All that can be tried with who is there, in the order of the README's table. Empty: `why` not.
  std::vector<PlacedLayout> Places(absl::Status* why) const;
  absl::StatusOr<std::vector<plan::RankAssignment>> Place(const Layout& layout, Draining draining, bool put_off) const;
  // The present attempt failed, by the fault of an agent if one is known.
  void NoteFailure(Agent* by, Failure how);
  Tried& Attempt();  // the present one, in tried_
  void ForgetFailures(const plan::AgentId& agent);
  // There was a group before this coordinator, which has formed none yet.
  bool follows() const { return existed_ && groups_formed_ == 0; }
  // Those who hold the weights of the group before are likely to register in a moment; others would read them again.
  bool adoption_lasts() const { return follows() && attempts_ == 0 && followed_ < options_.adopt_timeout; }
  // A call of theirs that a dying coordinator swallowed takes them some time more: while fewer agents than asked for
  // are there, nobody reads anything again yet.
  bool waits_for_holders() const { return follows() && followed_ < 3 * options_.adopt_timeout; }
  // All of its ranks where their weights are. Empty: somebody holds some of them no more, or not yet.
  std::vector<plan::RankAssignment> WhereHeld(const Layout& layout) const;
  std::vector<Layout> HeldLayouts() const;  // no larger than asked for, other than that; as agents say
  absl::StatusOr<Layout> HeldLayout(const plan::AgentInfo& info) const;
  plan::JoinGroup MakeJoin(const std::vector<plan::RankAssignment>& ranks) const;
  // Over which these ranks talk, by what was asked for and where they are.
  std::string TransportOf(const std::vector<plan::RankAssignment>& ranks) const;
  bool may_span_hosts() const { return options_.engine.transport != kSharedMemory; }
  // Layouts as asked for have the cache as asked for; others may have less.
  absl::StatusOr<plan::MirrorLimits> Size(const std::vector<plan::JoinReply::Rank>& ranks) const;
  void Ready(TimeNs now, EffectList& fx);
  void AllJoined(TimeNs now, EffectList& fx);
  // Whether ranks of this group have to publish addresses.
  bool needs_addresses() const { return transport_ != kSharedMemory; }
  // What is wrong with the addresses that an agent says its ranks have published; empty: nothing.
  std::string Misaddressed(const Agent& agent, const plan::LoadProgress& progress) const;
  // All have published: everybody gets all addresses.
  void ConnectRanks(TimeNs now, EffectList& fx);
  std::vector<int32_t> RanksOf(const plan::AgentId& agent) const;  // ascending
  // The group is gone: a new epoch, and a new attempt at once or, after failed ones, a little later.
  void Lose(std::string reason, bool blamed, TimeNs now, EffectList& fx);
  // Before a ready group is lost, while all of it is still known: keeps how it stands. Lose() does so, with nobody to
  // blame, where it has not been done.
  void NoteLoss(Culprit culprit, TimeNs now);
  // An agent, when one is known, cannot do what was asked of it. A first group is given up: the process ends and says
  // why. Later there is somebody who waits for its return, and what is wrong may be put right: it is tried again.
  void Refused(Agent* by, std::string reason, TimeNs now, EffectList& fx);
  void Fail(std::string reason, EffectList& fx);
  // What an attempt after a failed one adds to what it is doing.
  std::string AfterFailure() const;
  void AbortGroup(const std::string& reason, EffectList& fx);
  void CountSilence(TimeNs now, EffectList& fx);
  bool InGroup(const plan::AgentId& agent) const;
  ClusterState::AgentState StateOf(const plan::AgentId& agent) const;
  // By registration; what they hold of another layout is not mentioned. `put_off`: those too.
  std::vector<plan::AgentInfo> Usable(const Layout& layout, Draining draining, bool put_off) const;
  // Who takes the ranks of draining agents, and what these must read before; who has read in vain.
  void PlanHandover(TimeNs now, EffectList& fx);
  void PrepareHandover(TimeNs now, EffectList& fx);
  // Weights that were read for a handover that does not come, or not to who read them, go: a spare has its memory back.
  void ReleasePreloads(EffectList& fx);
  // Its ranks shall go; it has none now and is drained, or has them until others take them.
  void BeginDrain(Agent& agent, EffectList& fx);
  // What the agent itself remembers of it.
  void TakeDrain(Agent& agent, plan::DrainState state, EffectList& fx);
  void TellDrain(const Agent& agent, EffectList& fx);
  // False: agents were found unfit, others must be chosen.
  bool CheckHandover(EffectList& fx);
  void StartPreload(Agent& agent, std::vector<plan::RankAssignment> ranks, TimeNs now, EffectList& fx);
  void Unfit(Agent& agent, const std::string& why, EffectList& fx);
  void SayHandover(std::string text, EffectList& fx);
  void PreloadTimer(TimeNs now, EffectList& fx);
  bool Drains() const;  // an agent of the group
  // Null: nothing that is waited for. What is of another epoch than the last one it was asked under is counted.
  Agent* Preloading(const plan::AgentId& agent, uint64_t epoch);
  void CompareCaches();
  void Stale(plan::StalePlace place) { ++stale_[static_cast<size_t>(place)]; }
  bool All(bool Agent::*flag) const;                          // of the group
  Agent* Member(const plan::AgentId& agent, uint64_t epoch);  // null: not of this group
  // Slots of an agent up to the last one that has a rank.
  static size_t SlotsUsed(const plan::AgentId& agent, const std::vector<plan::RankAssignment>& group);
  static constexpr std::string_view kSharedMemory = "shm", kBetweenHosts = "gloo", kBetweenDevices = "nccl";
  static constexpr std::string_view kAutomatic = "auto", kCudaDevice = "cuda";
  bool forming() const { return phase_ == Phase::kJoining || phase_ == Phase::kLoading; }

  // How often silence is counted: a lost agent is noticed at most this late.
  DurationNs TickInterval() const { return options_.heartbeat_timeout / 6; }

  const CoreOptions options_;
  const Layout asked_;
  Layout layout_ = asked_;
  Phase phase_ = Phase::kWaitingForAgents;
  std::string detail_, loss_;
  bool blamed_ = false;
  bool noted_ = false;  // the two below are of the loss that comes now
  Culprit culprit_;
  ClusterState before_loss_{};
  TimeNs lost_at_ = 0;       // when the last ready group was; 0: none since
  bool impossible_ = false;  // failed for what was asked for, not for what happened
  uint64_t epoch_ = 0;
  bool epoch_unused_ = false;  // raised by an abort; no group has had it yet
  std::string numerics_id_;
  std::string transport_;    // of the present group, or the last one
  bool connecting_ = false;  // the addresses have been sent
  plan::MirrorLimits limits_;
  std::map<plan::AgentId, Agent> agents_;
  std::vector<plan::RankAssignment> group_;  // by rank; empty: none
  // What the caches of the last group that was ready were: its numbers and limits, and the memory by rank. A rank whose
  // agent named none has 0.
  struct Caches {
    std::string numerics_id;
    Layout layout;
    plan::MirrorLimits limits;
    std::vector<uint64_t> ids;
    bool operator==(const Caches&) const = default;
  };
  Caches caches_;
  std::string ready_numerics_;  // of the last group that was ready
  bool kv_kept_ = false;
  std::vector<plan::RankAssignment> previous_;  // of the last group that was ready
  Layout previous_layout_ = asked_;
  bool reformed_ = false;
  uint64_t next_order_ = 1, groups_formed_ = 0, reforms_ = 0;
  int32_t attempts_ = 0;           // that failed since the last group was ready
  TimeNs retry_at_ = 0;            // 0: nothing planned
  bool existed_ = false;           // there was a group, of this coordinator or one before it
  DurationNs followed_ = 0;        // since it had met an agent and knew that it follows; counted as silence is
  TimeNs deadline_ = 0;            // of joining or loading
  TimeNs replace_at_ = 0;          // until then a lost group waits for all of its ranks; 0: nothing planned
  bool may_shrink_ = false;        // that time has passed
  std::vector<Layout> too_large_;  // for what is there, as their ranks said in this outage
  std::vector<Tried> tried_;       // of agents that are there
  uint64_t load_steps_ = 0;
  int32_t caution_ = 0;
  bool grow_ = true;                        // not tried since an agent came last
  bool growing_ = false;                    // tried right now
  std::vector<plan::RankAssignment> next_;  // the group without draining agents, while it is prepared
  bool handover_ready_ = false;
  TimeNs handover_at_ = 0;  // to be planned again; 0: not by time
  std::string handover_;    // what draining waits for
  TimeNs last_tick_ = 0, next_tick_ = 0;
  plan::StaleCounts stale_{};
};

}  // namespace shoal::core
