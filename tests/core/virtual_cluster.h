// The real core against simulated agents and ranks in virtual time. Ranks check every plan against a mirror of their
// own and run a model whose next token is a hash of all token ids read back through the block table, so that a wrong
// table, copy or order changes the text. CheckInvariants runs after every event.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <string>
#include <vector>

#include "common/plan/plan_check.h"
#include "coordinator/core/core.h"

namespace shoal::core {

inline constexpr int32_t kVocab = 96;

// A small model that can be cut into 3 x 3.
CoreOptions TestOptions();

// Everything after the prompt that a request gets when it is alone.
std::vector<int32_t> LoneRun(const GenerateRequest& request, FinishReason* reason);

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

struct ClusterTimes {
  DurationNs net_min = 50 * kMicrosecond, net_max = 200 * kMicrosecond;  // one message between two processes
  DurationNs step_min = 1 * kMillisecond, step_max = 3 * kMillisecond;   // one stage, one plan
  DurationNs timer_late = 0;                                             // every timer fires so much too late
};

// What a client got.
struct Answer {
  std::vector<int32_t> tokens;
  int finishes = 0;
  FinishRequest finish{};
  TimeNs finished_at = 0;
};

class VirtualCluster {
 public:
  VirtualCluster(CoreOptions options, ClusterTimes times, uint64_t seed);

  // --- What happens outside ---
  void AddAgent(const AgentSpec& spec);
  void KillAgent(const std::string& id);    // its connection breaks
  void FreezeAgent(const std::string& id);  // says and does nothing any more
  void ThawAgent(const std::string& id);
  // As its agent reports it: while it loads, as the failure of the load; before, nobody is there to be killed.
  void KillRank(int32_t rank, const std::string& cause);
  // What an agent answers from now on; OK: as it should.
  void RefuseJoins(const std::string& id, const absl::Status& why);
  void RefuseLoads(const std::string& id, const absl::Status& why);
  void RefusePreloads(const std::string& id, const absl::Status& why);
  void FailStep(const std::string& error) { fail_step_ = error; }  // the next plan's answer from rank 0 says so
  void PoisonRequestsWith(int32_t token) { poison_ = token; }      // a prompt that begins so gives NaN
  void RepeatAnswers() { repeat_answers_ = true; }                 // every answer comes twice
  void Submit(const GenerateRequest& request);
  void SubmitAt(TimeNs at, const GenerateRequest& request);
  void Cancel(RequestId id, CancelCause cause);
  void Post(const Event& event);  // now
  void At(TimeNs at, std::function<void()> what);

  // --- Time ---
  void RunUntil(TimeNs at);
  // False when `limit` of virtual time passed first.
  bool RunUntil(const std::function<bool()>& done, DurationNs limit = 600 * kSecond);
  bool RunUntilReady() {
    return RunUntil([this] { return state().phase == ClusterState::Phase::kReady; }, 60 * kSecond);
  }
  bool RunUntilAnswered() {
    return RunUntil([this] { return open_ == 0; });
  }
  // The coordinator's process stands still until `at`: then its timer comes first, and what else came meanwhile;
  // heartbeats of that time are lost.
  void Pause(TimeNs at);
  TimeNs now() const { return now_; }

  // --- What came out ---
  ClusterState state() const { return core_.State(now_); }
  const Answer& answer(RequestId id) const { return answers_.at(id); }
  const std::map<RequestId, Answer>& answers() const { return answers_; }
  const std::vector<std::string>& problems() const {
    return problems_;
  }  // of the core's plans and effects; none expected
  const std::vector<LogLine>& log() const { return log_; }
  bool Logged(const std::string& part) const;
  const std::vector<SendJoin>& joins() const { return joins_; }
  const std::vector<SendAbort>& aborts() const { return aborts_; }
  int preloads(const std::string& id) const;        // that it was asked for
  int64_t bytes_read(const std::string& id) const;  // of weights: 1000 for a rank

  struct PlanTrace {
    uint64_t epoch, step;
    int32_t cohort, tokens, decode_rows;
    uint64_t bytes_hash;
    TimeNs sent, ended, answered;  // ended: at the last stage; answered: known to the core, 0: not yet
  };
  const std::vector<PlanTrace>& plans() const { return plans_; }
  int max_unanswered() const { return max_unanswered_; }  // plans of one sequence
  int max_in_flight() const { return max_in_flight_; }
  DurationNs stage_busy(int stage) const { return busy_.at(stage); }

 private:
  struct Executor;
  struct Agent;
  struct Cache;
  struct Item {
    TimeNs at;
    uint64_t order;
    std::function<void()> what;
    bool operator<(const Item& o) const { return at != o.at ? at > o.at : order > o.order; }
  };

  void Carry(const std::vector<Effect>& effects);
  void On(const SendJoin& e);
  void On(const SendLoad& e);
  void On(const SendPreload& e);
  void On(const SendPlan& e);
  void On(const SendAbort& e);
  void On(const EmitTokens& e);
  void On(const FinishRequest& e);
  void On(const SetTimer& e);
  void On(const LogLine& e) { log_.push_back(e); }
  void Execute(const plan::StepPlan& plan, uint64_t bytes_hash);
  // Each rank's own, when its stage has ended; `sampled` with that of the sampling rank.
  void SayResults(const plan::StepResult& result, const std::vector<TimeNs>& ended,
                  const std::function<void()>& sampled);
  void Answered(size_t trace, const std::vector<plan::SequenceId>& ids);
  void Beat(const std::string& id, uint64_t incarnation);
  // The agent says it after the network's delay, in order, unless it is dead or frozen by then. `before` may take it
  // back: false.
  void Say(const std::string& id, TimeNs at, const Event& event, std::function<bool()> before = nullptr);
  DurationNs Between(DurationNs low, DurationNs high);
  void Problem(const std::string& text);

  CoreOptions options_;
  ClusterTimes times_;
  uint64_t seed_, draws_ = 0;
  Core core_;
  TimeNs now_ = 0;
  uint64_t order_ = 0;
  std::priority_queue<Item> queue_;
  TimeNs timer_ = 0;
  TimeNs deaf_until_ = 0;  // heartbeats before it are lost
  std::map<std::string, std::shared_ptr<Agent>> agents_;
  std::shared_ptr<Executor> executor_;  // the ranks of the present group
  uint64_t caches_made_ = 0;
  std::string fail_step_;
  int32_t poison_ = -1;
  bool repeat_answers_ = false;

  std::map<RequestId, Answer> answers_;
  int open_ = 0;
  std::vector<std::string> problems_;
  std::vector<LogLine> log_;
  std::vector<SendJoin> joins_;
  std::vector<SendAbort> aborts_;
  std::vector<PlanTrace> plans_;
  std::map<plan::SequenceId, int> unanswered_;
  int in_flight_ = 0, max_unanswered_ = 0, max_in_flight_ = 0;
  std::map<int, DurationNs> busy_;
};

}  // namespace shoal::core
