// The ranks of one group, wherever they live, and what goes between them: stages that execute plans in order, each when
// the one before it is done, all of its tensor ranks have the plan, and the tokens that it needs are sampled. A rank
// that is gone stops its stage in the middle of a step and so, in time, all others; nothing here notices that.
// Not thread-safe.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/plan/control.h"
#include "common/plan/plan_check.h"
#include "tools/sim/world.h"

namespace shoal::sim {

// The KV cache of one rank. It belongs to its agent, and outlives groups.
struct Cache {
  uint64_t id = 0;
  uint64_t coordinator = 0;     // whose ranks wrote to it
  std::vector<int32_t> tokens;  // [blocks * block_size]
};

// A plan with all that a rank looks up in its mirror when it executes it.
struct ResolvedPlan {
  plan::Stamp stamp;
  bool checksum = false;
  struct Row {
    plan::Row row;
    plan::SamplingParams sampling;
    std::vector<int32_t> slots;   // of positions [0, position + count)
    std::vector<int32_t> tokens;  // [count] literal ids; empty: the last sample
    int32_t first_token = 0;      // of the sequence: some requests are poison
    int32_t prompt_tokens = 0;    // of the sequence
    std::vector<int32_t> known;   // tokens behind its own, whose log-probabilities it gives
    uint64_t sampled_in = 0;      // step that samples what a last-sample row reads
  };
  std::vector<Row> rows;
  std::vector<plan::BlockCopy> copies;
  int32_t block_size = 0;
};
// Applies the plan to the mirror, with all checks.
absl::StatusOr<std::shared_ptr<const ResolvedPlan>> Resolve(const plan::StepPlan& plan, plan::PlanMirror& mirror);

// How ranks misbehave; shared by all groups of a cluster.
struct RankFaults {
  std::string fail_step;    // the next plan's answer from rank 0 says so
  int32_t not_finite = -1;  // a prompt that begins so gives NaN
  int32_t deadly = -1;      // a prompt that begins so kills a rank of the first stage
  // Rank 0 dies of every plan for whose rows this says so, given the first token of each row's sequence; as its turn
  // comes, before it has ended anywhere.
  using KillsFn = std::function<bool(const std::vector<int32_t>& first_tokens)>;
  KillsFn kills;
  std::string kills_cause;                  // as its agent words it
  bool wrongly = false;                     // all ranks alike: every token is another one
  int32_t other_states = -1;                // this rank's checksums differ
  std::map<int32_t, DurationNs> own_times;  // what a rank's answers say of its own time in a step; else 1 ms
};

struct StepTimes {
  DurationNs min = 1 * kMillisecond, max = 3 * kMillisecond;  // one stage, one plan
};

class VirtualRanks : public std::enable_shared_from_this<VirtualRanks> {
 public:
  struct Hooks {
    std::function<void(int stage, DurationNs takes)> on_start;
    std::function<void(uint64_t step)> on_end;  // of the last stage
  };
  VirtualRanks(World* world, int32_t tp, int32_t pp, const StepTimes& times, RankFaults* faults, Hooks hooks);

  struct Rank {
    std::shared_ptr<Cache> cache;
    std::function<void(const plan::StepResult&)> answer;
    std::function<void(const std::string& cause)> die;  // of its own
  };
  void Attach(int32_t rank, Rank what);
  // Its agent has handed it this plan.
  void Arrive(int32_t rank, const std::shared_ptr<const ResolvedPlan>& plan);
  bool Knows(uint64_t step) const { return plans_.contains(step) || step <= stages_.back().done; }
  std::shared_ptr<const ResolvedPlan> Plan(uint64_t step) const { return plans_.at(step).plan; }
  void Kill(int32_t rank);
  void Freeze(int32_t rank, bool frozen);
  bool lives(int32_t rank) const { return ranks_[rank].state == State::kRuns; }
  // Nobody answers anything any more, and nobody dies.
  void Hang();
  // What a rank's agent sees of it: how it gets on with the plans, or what was shown instead.
  plan::RankStatus Status(int32_t rank) const;
  void Show(const plan::RankStatus& status) { shown_[status.rank] = status; }

 private:
  enum class State : uint8_t { kAbsent, kRuns, kDead };
  struct Slot {
    Rank rank;
    State state = State::kAbsent;
    bool frozen = false;
    uint64_t received = 0;
    TimeNs started = 0;  // of the step that its stage is in, or was in last
  };
  struct Stage {
    uint64_t done = 0;  // steps
    bool busy = false;
    bool overdue = false;  // its step would have ended, but for a frozen rank
    bool broken = false;
    std::string error;
  };
  struct Step {
    std::shared_ptr<const ResolvedPlan> plan;
    std::vector<std::vector<int32_t>> inputs;  // [rows][count]
    // [rows][count] what the stages so far made of the rows that have outputs
    std::vector<std::vector<uint64_t>> hidden;
  };

  void Run(int stage);
  void End(int stage);
  void Interrupt(int stage);  // its step never ends
  void Compute(int stage, Step& step);
  bool Deadly(const ResolvedPlan& plan) const;
  void Kills(const ResolvedPlan& plan, DurationNs takes);
  int32_t WaitingFor(int32_t rank) const;  // -1: for none
  std::vector<plan::RowResult> Sample(const Step& step);
  void Copy(int stage, const ResolvedPlan& plan, bool whole);
  std::vector<uint64_t> ReadBack(int stage, const ResolvedPlan::Row& row);
  bool MayRun(int stage, const ResolvedPlan& plan) const;

  World* const world_;
  const int32_t tp_, pp_;
  const StepTimes times_;
  RankFaults* const faults_;
  const Hooks hooks_;
  std::vector<Slot> ranks_;
  std::vector<Stage> stages_;
  std::map<uint64_t, Step> plans_;  // by step, not yet through the last stage
  struct Sampled {
    uint64_t step;
    int32_t token;
  };
  std::map<plan::SequenceId, Sampled> samples_;  // the last one of each
  std::map<int32_t, plan::RankStatus> shown_;
};

}  // namespace shoal::sim
