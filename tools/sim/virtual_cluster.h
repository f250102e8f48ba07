// A whole cluster in virtual time: the real core, simulated agents and ranks (null model), a network, and clients. The
// same calls with the same seed give the same run. Ranks check every plan against their mirrors; CheckInvariants runs
// after every event. Not thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "coordinator/core/report.h"
#include "tools/sim/network.h"
#include "tools/sim/null_model.h"
#include "tools/sim/virtual_agent.h"
#include "tools/sim/virtual_coordinator.h"
#include "tools/sim/virtual_ranks.h"
#include "tools/sim/world.h"

namespace shoal::sim {

struct ClusterTimes {
  DurationNs net_min = 50 * kMicrosecond, net_max = 200 * kMicrosecond;  // one message between two processes
  DurationNs step_min = 1 * kMillisecond, step_max = 3 * kMillisecond;   // one stage, one plan
  DurationNs timer_late = 0;                                             // every timer fires so much too late
  DurationNs read_max = 0;                                               // to read the weights of one rank
  int spike_permille = 0;                                                // of the messages are late, by up to
  DurationNs spike = 0;
};

// What a client got.
struct Answer {
  std::vector<int32_t> tokens;                     // of the first choice
  std::map<int32_t, std::vector<int32_t>> others;  // of those behind it
  std::map<int32_t, core::FinishReason> ended;     // choices that did before the request
  std::map<int32_t, std::vector<plan::TokenLogprobs>> logprobs;
  std::vector<plan::TokenLogprobs> prompt_logprobs;
  int finishes = 0;
  core::FinishRequest finish{};
  TimeNs submitted_at = 0, finished_at = 0;
  bool refused = false;  // there was no coordinator
  bool cut = false;      // the coordinator ended while it was open

  const std::vector<int32_t>& TokensOf(int32_t choice) const;
};

// What a test of the simulator does to the core's events and effects.
struct Tamper {
  std::function<void(core::Event*)> event;
  std::function<int(const core::Effect&)> copies;  // how often an effect is carried out
};

class VirtualCluster : private VirtualCoordinator::Observer {
 public:
  VirtualCluster(const core::CoreOptions& options, const ClusterTimes& times, uint64_t seed);
  ~VirtualCluster() override;

  // --- Agents. One that has the id of another takes its place, in a new process with nothing in memory. ---
  void AddAgent(const AgentSpec& spec);    // registered when this returns
  void StartAgent(const AgentSpec& spec);  // registers as soon as the network lets it
  void KillAgent(const std::string& id);   // the coordinator knows when this returns
  // Its connections are reset, or, `silent`, nobody says anything: its host is gone.
  void CrashAgent(const std::string& id, bool silent);
  void FreezeAgent(const std::string& id, bool ranks_too = false);  // its process stands still
  void ThawAgent(const std::string& id);
  // As its agent reports it: while it loads, as the failure of the load; before, nobody is there to be killed: false.
  bool KillRank(int32_t rank, const std::string& cause);
  // What an agent answers from now on; OK: as it should.
  void RefuseJoins(const std::string& id, const absl::Status& why) { agents_.at(id)->RefuseJoins(why); }
  void RefuseLoads(const std::string& id, const absl::Status& why) { agents_.at(id)->RefuseLoads(why); }
  void RefusePreloads(const std::string& id, const absl::Status& why) { agents_.at(id)->RefusePreloads(why); }
  void FailStep(const std::string& error) { faults_.fail_step = error; }
  void PoisonRequestsWith(int32_t token) { faults_.not_finite = token; }  // a prompt that begins so gives NaN
  void KillRanksWith(int32_t token) { faults_.deadly = token; }           // a prompt that begins so kills a rank
  // A rank dies of every plan for whose rows this says so, given the first token of each row's sequence. `cause`: as
  // its agent words it.
  void DieOf(RankFaults::KillsFn kills, const std::string& cause = "killed by signal 11") {
    faults_.kills = std::move(kills);
    faults_.kills_cause = cause;
  }
  void ComputeWrongly(bool wrongly) { faults_.wrongly = wrongly; }      // all ranks alike: every token is another one
  void HoldOtherStates(int32_t rank) { faults_.other_states = rank; }   // its checksums differ; -1: nobody's
  void RepeatAnswers(bool repeat = true) { repeat_answers_ = repeat; }  // every answer comes twice
  // The present group's ranks answer nothing any more; heartbeats go on. Precondition: ready.
  void Hang() { PresentRanks()->Hang(); }
  // What heartbeats say of a rank of the present group from now on, instead of how it gets on with the plans.
  void Show(const plan::RankStatus& status) { PresentRanks()->Show(status); }
  // What a rank's answers say of its own time in a step; 1 ms unless told.
  void SetOwnTime(int32_t rank, DurationNs own) { faults_.own_times[rank] = own; }

  // --- Network ---
  void Cut(const std::string& id, bool to_agent, bool to_coordinator);
  void Heal(const std::string& id);
  void ResetConnection(const std::string& id);
  void SlowNetwork(int times) { network_.Slow(times); }
  // Up to so many messages of agents that came before, of this or former epochs and incarnations, come again.
  void Ghosts(int count);

  // --- Coordinator ---
  void Post(const core::Event& event) { coordinator_.Post(event); }
  // Its process stands still until `at`, and nobody else notices.
  void Pause(TimeNs at);
  void FreezeCoordinator();
  // All processes stand still, and then find that it is so much later. What was due meanwhile comes late.
  void Jump(DurationNs by, bool timer_first);
  void ThawCoordinator(bool timer_first) { coordinator_.Thaw(timer_first); }
  void CrashCoordinator();
  void RestartCoordinator(bool knows_epochs) { coordinator_.Restart(knows_epochs); }

  // --- Clients ---
  void Submit(const core::GenerateRequest& request);
  void SubmitAt(TimeNs at, const core::GenerateRequest& request);
  void Cancel(core::RequestId id, core::CancelCause cause, int32_t choice = -1) {
    Post(core::RequestCancelled{id, cause, choice});
  }
  // Called with each answer whose first choice has grown.
  void OnTokens(std::function<void(core::RequestId, const Answer&)> call) { on_tokens_ = std::move(call); }
  // Called with each answer that has ended; not with those that were cut.
  void OnEnd(std::function<void(const core::FinishRequest&, const Answer&)> call) { on_end_ = std::move(call); }

  // --- Time ---
  void At(TimeNs at, std::function<void()> what) { world_.At(at, std::move(what)); }
  void RunUntil(TimeNs at);
  // False when `limit` of virtual time passed first.
  bool RunUntil(const std::function<bool()>& done, DurationNs limit = 600 * kSecond);
  bool RunUntilReady(DurationNs limit = 60 * kSecond);
  bool RunUntilAnswered(DurationNs limit = 600 * kSecond) {
    return RunUntil([this] { return open_ == 0; }, limit);
  }
  TimeNs now() const { return world_.now(); }
  World& world() { return world_; }

  // --- What came out ---
  core::ClusterState state() const;
  bool coordinator_up() const { return coordinator_.up(); }
  bool coordinator_frozen() const { return coordinator_.frozen(); }
  const Answer& answer(core::RequestId id) const { return answers_.at(id); }
  const std::map<core::RequestId, Answer>& answers() const { return answers_; }
  const std::map<std::string, std::shared_ptr<VirtualAgent>>& agents() const { return agents_; }
  // Of the core's plans and effects, as ranks and clients see them; none expected.
  const std::vector<std::string>& problems() const { return world_.problems(); }
  const std::vector<core::LogLine>& log() const { return log_; }
  bool Logged(const std::string& part) const;
  const std::vector<core::SendJoin>& joins() const { return joins_; }
  const std::vector<core::SendConnect>& connects() const { return connects_; }
  const std::vector<core::SendAbort>& aborts() const { return aborts_; }
  const std::vector<std::shared_ptr<const core::StallReport>>& reports() const { return reports_; }
  int preloads(const std::string& id) const { return agents_.at(id)->preloads(); }  // that it was asked for
  int64_t bytes_read(const std::string& id) const {
    return agents_.at(id)->bytes_read();
  }                                        // of weights: 1000 for a rank
  uint64_t hash() const { return hash_; }  // of all events and effects, in order
  uint64_t events() const { return events_; }

  struct PlanTrace {
    uint64_t epoch, step;
    int32_t cohort, tokens, decode_rows;
    uint64_t bytes_hash;
    int32_t rows, bucket;
    bool checksum;
    TimeNs sent, ended, answered;  // ended: at the last stage; answered: known to the core, 0: not yet
  };
  const std::vector<PlanTrace>& plans() const { return plans_; }
  int max_unanswered() const { return max_unanswered_; }  // plans of one sequence
  int max_in_flight() const { return max_in_flight_; }
  DurationNs stage_busy(int stage) const { return busy_.at(stage); }

  // Weights of a rank that were read. `holder`: an agent that had them and had been well for a while; empty: none.
  struct Read {
    TimeNs at;
    std::string agent;
    int32_t rank;
    std::string holder;
  };
  const std::vector<Read>& reads() const { return reads_; }

  void Set(Tamper tamper) { tamper_ = std::move(tamper); }

 private:
  struct Sent {  // a plan of the present epoch
    size_t trace;
    std::vector<plan::SequenceId> ids;
  };

  void Sees(core::Event* event) override;
  int Copies(const core::Effect& effect) override;
  void Took(const core::Event& event) override;
  void Carries(const core::Effect& effect) override;
  void On(const core::SendPlan& e);
  void On(const core::EmitTokens& e);
  void On(const core::EmitPromptLogprobs& e);
  void On(const core::FinishChoice& e);
  void On(const core::FinishRequest& e);
  Answer* Open(core::RequestId id, const char* what);  // null: nobody waits for that
  void On(const core::SendJoin& e) {
    joins_.push_back(e);
    layouts_[e.join.epoch] = {e.join.tp, e.join.pp};
  }
  void On(const core::SendConnect& e) { connects_.push_back(e); }
  void On(const core::SendAbort& e) { aborts_.push_back(e); }
  void On(const core::Report& e) { reports_.push_back(e.what); }
  void On(const core::LogLine& e) { log_.push_back(e); }
  template <typename Other>
  void On(const Other&) {}

  void NewAgent(const AgentSpec& spec, bool at_once);
  std::shared_ptr<VirtualRanks> RanksOf(uint64_t coordinator, uint64_t epoch, const core::Layout& layout);
  std::shared_ptr<VirtualRanks> PresentRanks();
  void WasRead(const VirtualAgent& reader, int32_t rank);
  bool Leaves(const std::string& id) const;  // it is drained, or shall be
  void CompareStates(const plan::StepResult& result);
  void CheckTrust(const plan::StepPlan& plan);
  std::set<int32_t> Written(const plan::StepPlan& plan);
  DurationNs Keepalive() { return world_.Between(10 * kSecond, 16 * kSecond); }

  const core::CoreOptions options_;
  const ClusterTimes times_;
  World world_;
  Network network_;
  VirtualCoordinator coordinator_;
  RankFaults faults_;
  bool repeat_answers_ = false;
  uint64_t caches_made_ = 0, cuts_ = 0, freezes_ = 0;
  std::map<std::string, std::shared_ptr<VirtualAgent>> agents_;
  std::map<std::string, uint64_t> incarnations_, cut_of_;
  std::map<std::pair<uint64_t, uint64_t>, std::weak_ptr<VirtualRanks>> ranks_;
  std::deque<core::Event> heard_;  // of late, from agents
  Tamper tamper_;

  std::map<core::RequestId, Answer> answers_;
  std::function<void(core::RequestId, const Answer&)> on_tokens_;
  std::function<void(const core::FinishRequest&, const Answer&)> on_end_;
  int open_ = 0;
  std::vector<core::LogLine> log_;
  std::vector<core::SendJoin> joins_;
  std::vector<core::SendConnect> connects_;
  std::vector<core::SendAbort> aborts_;
  std::vector<std::shared_ptr<const core::StallReport>> reports_;
  std::vector<Read> reads_;
  uint64_t hash_ = 0, events_ = 0;
  std::vector<PlanTrace> plans_;
  plan::Stamp epoch_;                         // of the last plan
  std::map<uint64_t, core::Layout> layouts_;  // by epoch, of the present coordinator
  std::map<uint64_t, Sent> sent_;             // by step, of that epoch
  std::map<plan::SequenceId, int> unanswered_;
  int in_flight_ = 0, max_unanswered_ = 0, max_in_flight_ = 0;
  // Checksums on their way to the core: by step of the present epoch and stage, those of its ranks.
  std::map<std::pair<uint64_t, int32_t>, std::map<int32_t, uint64_t>> states_;
  plan::Stamp distrusted_;     // of a group whose ranks told different ones, until another one runs
  std::set<int32_t> written_;  // blocks that tables of that group got
  uint64_t written_in_ = 0;
  std::map<int, DurationNs> busy_;
};

}  // namespace shoal::sim
