// Tested by: tests/sim/run_test.cc
#include "tools/sim/run.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/sim/keyed.h"
#include "tools/sim/oracle.h"

namespace shoal::sim {
namespace {

using Phase = core::ClusterState::Phase;

// Once nothing is wrong any more: connections that have broken without a word are found out (16 s), an attempt under
// way fails (60 s if it waits for the answer to a join that was lost), and the next one succeeds.
constexpr DurationNs kReadyWithin = 90 * kSecond;
constexpr core::RequestId kLastRequest = 1'000'000;
// Shorter than what a detector may take for silence, all of them together.
constexpr DurationNs kHarmless = 1500 * kMillisecond, kHarmlessPause = 9 * kSecond;
// Agents that stood still for longer register again.
constexpr DurationNs kHarmlessGap = 2400 * kMillisecond;

class Run {
 public:
  Run(const Scenario& scenario, const RunOptions& options)
      : s_(scenario), options_(options), cluster_(scenario.options, scenario.times, scenario.seed) {}

  RunResult Go() {
    result_.seed = s_.seed;
    Prepare();
    Start();
    const TimeNs quiet = Schedule();
    cluster_.RunUntil(quiet);
    HealAll();
    Settle();
    std::vector<std::string> wrong = std::exchange(result_.problems, {});
    if (cluster_.coordinator_up()) result_.problems = Judge(s_, cluster_, history_);
    if (keyed_ != nullptr) {
      for (std::string& problem : keyed_->Judge()) Wrong(problem);
    }
    result_.problems.insert(result_.problems.begin(), wrong.begin(), wrong.end());
    result_.hash = cluster_.hash();
    result_.events = cluster_.events();
    result_.requests = static_cast<int>(history_.requests.size());
    for (const auto& [id, answer] : cluster_.answers()) {
      const bool ended = answer.finishes > 0 && answer.finish.error.ok();
      result_.answered += ended && answer.finish.reason != core::FinishReason::kCancelled ? 1 : 0;
    }
    return result_;
  }

 private:
  void Prepare() {
    if (options_.trace != nullptr) {
      cluster_.world().TraceTo(options_.trace);
      options_.trace(Describe(s_));
    }
    cluster_.PoisonRequestsWith(s_.not_finite);
    cluster_.KillRanksWith(s_.deadly);
    if (s_.deadly >= 0) history_.false_alarm_possible = true;
    cluster_.OnTokens([this](core::RequestId id, const Answer& answer) { Read(id, answer); });
    if (s_.keyed) PrepareKeys();
    if (options_.prepare != nullptr) options_.prepare(cluster_);
    Sample();
  }

  void PrepareKeys() {
    Keyed::Hooks hooks;
    hooks.died = [this] { Crash(crash_lasts_, crash_knows_epochs_); };
    hooks.on_execute = [this](const core::GenerateRequest& r) { history_.requests.push_back(r); };
    keyed_ = std::make_unique<Keyed>(&cluster_, hooks);
    cluster_.OnEnd([this](const core::FinishRequest& e, const Answer& answer) { keyed_->End(e, answer); });
    keyed_->Open();
  }

  void Start() {
    for (const AgentSpec& spec : s_.agents) {
      cluster_.At(cluster_.world().Between(0, 200 * kMillisecond), [this, spec] { cluster_.StartAgent(spec); });
      ids_.push_back(spec.id);
    }
    cluster_.RunUntil(300 * kMillisecond);
    if (!s_.cold && !cluster_.RunUntilReady(kReadyWithin)) Wrong("no group at first: ", cluster_.state().detail);
    if (s_.cold) history_.troubles.push_back({0, cluster_.now()});
  }

  // The time when the last fault has ended.
  TimeNs Schedule() {
    const TimeNs base = cluster_.now();
    TimeNs quiet = base;
    for (const Load& load : s_.load) {
      cluster_.At(base + load.at, [this, &load] { Submit(load); });
      quiet = std::max(quiet, base + load.at);
    }
    for (const Fault& fault : s_.faults) {
      cluster_.At(base + fault.at, [this, &fault] { Apply(fault); });
      quiet = std::max(quiet, base + fault.at + fault.lasts);
    }
    return quiet + kMillisecond;
  }

  template <typename... Parts>
  void Wrong(const Parts&... parts) {
    result_.problems.push_back(absl::StrCat(parts...));
    cluster_.world().Trace(absl::StrCat("WRONG ", result_.problems.back()));
  }

  // --- Clients ---
  void Submit(const Load& load) {
    const core::GenerateRequest& r = load.request;
    if (load.key != 0) return keyed_->Ask(load.key, r, load.insists);
    history_.requests.push_back(r);
    if (!load.stop_string.empty()) stop_strings_[r.id] = load.stop_string;
    cluster_.Submit(r);
    if (load.cancelled_after == 0) return;
    cluster_.At(cluster_.now() + load.cancelled_after, [this, id = r.id] { Disconnect(id); });
  }

  void Disconnect(core::RequestId id) {
    const Answer& a = cluster_.answer(id);
    if (a.finishes > 0 || a.cut || a.refused) return;
    history_.cancelled.insert(id);
    cluster_.Cancel(id, core::CancelCause::kDisconnect);
  }

  // The text side: looks for the stop string, and tells the core a little later.
  void Read(core::RequestId id, const Answer& answer) {
    const auto it = stop_strings_.find(id);
    if (it == stop_strings_.end() || history_.stopped.contains(id)) return;
    if (answer.tokens.size() < it->second.size()) return;
    if (!std::equal(it->second.begin(), it->second.end(), answer.tokens.end() - it->second.size())) return;
    history_.stopped[id] = answer.tokens.size();
    cluster_.At(cluster_.now() + cluster_.world().Between(0, 3 * kMillisecond),
                [this, id] { cluster_.Cancel(id, core::CancelCause::kStopString, /*choice=*/0); });
  }

  // --- Faults ---
  // One of those that `fits`, chosen by `pick`; empty: none does.
  std::string PickAgent(uint64_t pick, const std::function<bool(const VirtualAgent&)>& fits) const {
    std::vector<std::string> fitting;
    for (const std::string& id : ids_) {
      const auto it = cluster_.agents().find(id);
      if (it != cluster_.agents().end() && it->second->alive() && fits(*it->second)) fitting.push_back(id);
    }
    return fitting.empty() ? std::string() : fitting[pick % fitting.size()];
  }

  void After(DurationNs wait, std::function<void()> what) { cluster_.At(cluster_.now() + wait, std::move(what)); }

  void Apply(const Fault& fault) {
    cluster_.world().Trace(
        absl::StrCat("** ", std::string(FaultName(fault.kind)), " for ", fault.lasts / kMillisecond, " ms"));
    if (!(HitRank(fault) || HitAgent(fault) || HitNetwork(fault) || HitCoordinator(fault) || HitClients(fault))) {
      return cluster_.world().Trace("** nobody to be hit");
    }
    ++result_.faults[static_cast<size_t>(fault.kind)];
    history_.kinds.insert(fault.kind);
    const TimeNs now = cluster_.now();
    history_.troubles.push_back({now, now + fault.lasts});
    switch (fault.kind) {
      case FaultKind::kGhosts:
      case FaultKind::kSlowNetwork:
      case FaultKind::kDisconnect:
      case FaultKind::kShutdown:
      case FaultKind::kDrain:
      case FaultKind::kRepeatAnswers:
        break;
      case FaultKind::kFreezeCoordinator:
        paused_ += fault.lasts;
        break;
      case FaultKind::kClockJump:
        paused_ += fault.lasts;
        if (fault.lasts > kHarmlessGap) history_.false_alarm_possible = true;
        break;
      case FaultKind::kFreezeAgent:
      case FaultKind::kFreezeHost:
      case FaultKind::kCut:
      case FaultKind::kCutToAgent:
      case FaultKind::kCutToCoordinator:
        silent_ += fault.lasts;
        break;
      default:
        history_.false_alarm_possible = true;
    }
    if (silent_ > kHarmless || paused_ > kHarmlessPause) history_.false_alarm_possible = true;
  }

  bool KillRank(uint64_t pick, const std::string& cause) {
    const auto world = static_cast<uint64_t>(ranks());
    for (uint64_t i = 0; i < world; ++i) {
      if (cluster_.KillRank(static_cast<int32_t>((pick + i) % world), cause)) return true;
    }
    return false;
  }

  bool HitRank(const Fault& fault) {
    switch (fault.kind) {
      case FaultKind::kKillRank:
        return KillRank(fault.pick, fault.pick % 2 == 0 ? "killed by signal 9" : "killed by signal 15");
      case FaultKind::kStopRank:
        return KillRank(fault.pick, "stopped by signal 19");
      case FaultKind::kCrashRank:
        ++history_.blamed;
        return KillRank(fault.pick, "killed by signal 11");
      case FaultKind::kErrorAnswer:
        ++history_.blamed;
        cluster_.FailStep("device error");
        return true;
      case FaultKind::kRepeatAnswers:
        cluster_.RepeatAnswers();
        After(fault.lasts, [this] { cluster_.RepeatAnswers(false); });
        return true;
      case FaultKind::kOtherStates:
        if (s_.options.tp == 1 || s_.options.checksum_interval == 0) return false;
        cluster_.HoldOtherStates(static_cast<int32_t>(fault.pick % static_cast<uint64_t>(ranks())));
        history_.distrusts.push_back({cluster_.now(), cluster_.now() + fault.lasts});
        After(fault.lasts, [this] { cluster_.HoldOtherStates(-1); });
        return true;
      case FaultKind::kComputeWrongly:
        // What the canary is answered at first counts as right.
        if (!cluster_.coordinator_up() || cluster_.state().canary_passes == 0) return false;
        cluster_.ComputeWrongly(true);
        history_.distrusts.push_back({cluster_.now(), cluster_.now() + fault.lasts});
        history_.wrong.push_back(history_.distrusts.back());
        After(fault.lasts, [this] { cluster_.ComputeWrongly(false); });
        return true;
      default:
        return false;
    }
  }

  int ranks() const { return s_.options.tp * s_.options.pp; }

  bool HitAgent(const Fault& fault) {
    const auto running = [](const VirtualAgent& a) { return !a.frozen(); };
    std::string id;
    switch (fault.kind) {
      case FaultKind::kKillAgent:
      case FaultKind::kLoseHost:
        id = PickAgent(fault.pick, [](const VirtualAgent&) { return true; });
        if (!id.empty()) Replace(id, fault);
        return !id.empty();
      case FaultKind::kFreezeAgent:
      case FaultKind::kFreezeHost:
        id = PickAgent(fault.pick, running);
        if (id.empty()) return false;
        cluster_.FreezeAgent(id, fault.kind == FaultKind::kFreezeHost);
        After(fault.lasts, [agent = cluster_.agents().at(id)] { agent->Thaw(); });
        return true;
      case FaultKind::kRefuseJoin:
      case FaultKind::kRefuseLoad:
      case FaultKind::kNoMemory:
        return Exhaust(fault);
      case FaultKind::kDrain:
        id = PickAgent(fault.pick, [](const VirtualAgent& a) { return !a.Ranks().empty(); });
        if (id.empty() || !cluster_.coordinator_up()) return false;
        cluster_.Post(core::DrainRequested{id});
        After(fault.lasts, [this, agent = cluster_.agents().at(id)] { EndDrain(agent); });
        return true;
      default:
        return false;
    }
  }

  // An agent has no memory for what it is asked for; and something makes the coordinator ask.
  bool Exhaust(const Fault& fault) {
    const absl::Status memory = absl::ResourceExhaustedError("out of memory");
    const std::string id = PickAgent(fault.pick, [](const VirtualAgent& a) {
      return !a.Ranks().empty() && a.spec().join_error.ok() && a.spec().load_error.ok();
    });
    if (id.empty()) return false;
    const auto agent = cluster_.agents().at(id);
    fault.kind == FaultKind::kRefuseJoin ? agent->RefuseJoins(memory) : agent->RefuseLoads(memory);
    if (fault.kind == FaultKind::kNoMemory) {
      ++history_.blamed;
      agent->RefusePreloads(memory);
      cluster_.FailStep("out of memory");
    } else {
      KillRank(fault.pick, "killed by signal 9");
    }
    After(fault.lasts, [agent] {
      agent->RefuseJoins(absl::OkStatus());
      agent->RefuseLoads(absl::OkStatus());
      agent->RefusePreloads(absl::OkStatus());
    });
    return true;
  }

  // Whoever had it drained goes on: the agent is stopped and comes back as a new process. That costs nothing where it
  // was drained; one that was still needed is a loss.
  void EndDrain(const std::shared_ptr<VirtualAgent>& agent) {
    const auto it = cluster_.agents().find(agent->id());
    if (!agent->alive() || it->second != agent) return;
    plan::DrainState state = agent->drain();
    if (cluster_.coordinator_up()) {
      for (const core::ClusterState::Agent& a : cluster_.state().agents) {
        if (a.info.id != agent->id()) continue;
        if (a.state == core::ClusterState::AgentState::kDrained) state = plan::DrainState::kDrained;
        if (a.state == core::ClusterState::AgentState::kDraining) state = plan::DrainState::kDraining;
      }
    }
    if (state == plan::DrainState::kNone) return;
    if (state == plan::DrainState::kDraining) history_.false_alarm_possible = true;
    AgentSpec spec = agent->spec();
    spec.join_error = spec.load_error = spec.preload_error = absl::OkStatus();
    cluster_.CrashAgent(agent->id(), /*silent=*/false);
    cluster_.StartAgent(spec);
  }

  void Replace(const std::string& id, const Fault& fault) {
    AgentSpec spec = cluster_.agents().at(id)->spec();
    spec.join_error = spec.load_error = spec.preload_error = absl::OkStatus();
    cluster_.Heal(id);
    cluster_.CrashAgent(id, fault.kind == FaultKind::kLoseHost);
    if (fault.pick / 64 % 2 == 0) {
      spec.id = absl::StrCat("n", ++newcomers_);
      ids_.push_back(spec.id);
    }
    After(fault.lasts, [this, spec] { cluster_.StartAgent(spec); });
  }

  bool HitNetwork(const Fault& fault) {
    const bool to_agent = fault.kind != FaultKind::kCutToCoordinator;
    const bool to_coordinator = fault.kind != FaultKind::kCutToAgent;
    const std::string id = PickAgent(fault.pick, [](const VirtualAgent&) { return true; });
    switch (fault.kind) {
      case FaultKind::kCut:
      case FaultKind::kCutToAgent:
      case FaultKind::kCutToCoordinator:
        if (id.empty()) return false;
        cluster_.Cut(id, to_agent, to_coordinator);
        After(fault.lasts, [this, id] { cluster_.Heal(id); });
        return true;
      case FaultKind::kReset:
        if (!id.empty()) cluster_.ResetConnection(id);
        return !id.empty();
      case FaultKind::kGhosts:
        cluster_.Ghosts(1 + static_cast<int>(fault.pick % 20));
        return true;
      case FaultKind::kSlowNetwork:
        cluster_.SlowNetwork(50);
        After(fault.lasts, [this] { cluster_.SlowNetwork(1); });
        return true;
      default:
        return false;
    }
  }

  bool HitCoordinator(const Fault& fault) {
    const bool up = cluster_.coordinator_up();
    switch (fault.kind) {
      case FaultKind::kFreezeCoordinator:
        if (!up || frozen_) return false;
        frozen_ = true;
        cluster_.FreezeCoordinator();
        After(fault.lasts, [this, first = fault.pick % 2 == 0] {
          frozen_ = false;
          cluster_.ThawCoordinator(first);
        });
        return true;
      case FaultKind::kClockJump:
        cluster_.Jump(fault.lasts, fault.pick % 2 == 0);
        return true;
      case FaultKind::kCrashCoordinator:
        if (up) Crash(fault.lasts, fault.pick % 2 == 0);
        return up;
      case FaultKind::kCrashAtWrite:
        if (!up || history_.shutdown_at != 0) return false;
        crash_lasts_ = fault.lasts;
        crash_knows_epochs_ = fault.pick % 2 == 0;
        keyed_->disk().EndAt(keyed_->disk().operations() + 1 + fault.pick / 8 % 8, LeftBy(fault.pick / 2));
        return true;
      case FaultKind::kShutdown:
        if (!up) return false;
        history_.shutdown_at = cluster_.now();
        if (keyed_ != nullptr) keyed_->Drain();
        cluster_.Post(core::ShutdownRequested{});
        return true;
      default:
        return false;
    }
  }

  void Crash(DurationNs down, bool knows_epochs) {
    cluster_.CrashCoordinator();
    if (!knows_epochs) cluster_.ComputeWrongly(false);  // the next one takes what it is answered twice for right
    if (keyed_ != nullptr) keyed_->Crash(LeftBy(history_.samples.size()));
    history_.false_alarm_possible = true;
    Restart(down, knows_epochs);
  }

  static Left LeftBy(uint64_t pick) { return static_cast<Left>(pick % kLefts); }

  void Restart(DurationNs down, bool knows_epochs) {
    After(down, [this, knows_epochs] {
      if (cluster_.coordinator_up()) return;
      if (keyed_ != nullptr && !keyed_->Open()) return Restart(100 * kMillisecond, knows_epochs);
      history_.restarts.push_back(cluster_.now());
      history_.troubles.push_back({cluster_.now(), cluster_.now()});
      cluster_.RestartCoordinator(knows_epochs);
    });
  }

  bool HitClients(const Fault& fault) {
    if (fault.kind != FaultKind::kDisconnect) return false;
    int hit = 0;
    for (const auto& [id, answer] : cluster_.answers()) {
      if (answer.finishes > 0 || answer.cut || answer.refused || (fault.pick >> id % 60 & 1) != 0) continue;
      if (id >= Keyed::kFirstId) continue;  // nobody's in particular
      going_.push_back(id);
      ++hit;
    }
    for (const core::RequestId id : std::exchange(going_, {})) Disconnect(id);
    return hit > 0;
  }

  // --- The end ---
  // Looks at the cluster again and again. One that has given up is started again, as whoever watches it would.
  void Sample() {
    const bool up = cluster_.coordinator_up();
    const Phase phase = up ? cluster_.state().phase : Phase::kWaitingForAgents;
    history_.samples.push_back({cluster_.now(), phase, up});
    if (up && phase == Phase::kFailed && history_.shutdown_at == 0) {
      cluster_.world().Trace(absl::StrCat("** the coordinator gives up: ", cluster_.state().detail));
      Crash(kSecond, true);
    }
    After(kSampleEvery, [this] { Sample(); });
  }

  void HealAll() {
    cluster_.world().Trace("** all is well from now on");
    cluster_.FailStep("");
    cluster_.SlowNetwork(1);
    cluster_.RepeatAnswers(false);
    cluster_.HoldOtherStates(-1);
    cluster_.ComputeWrongly(false);
    cluster_.ThawCoordinator(true);
    if (keyed_ != nullptr) keyed_->disk().EndAt(0, Left::kAll);
    std::vector<std::shared_ptr<VirtualAgent>> agents;
    for (const auto& [id, agent] : cluster_.agents()) {
      cluster_.Heal(id);
      agent->Thaw();
      agents.push_back(agent);
    }
    for (const auto& agent : agents) EndDrain(agent);
  }

  void Settle() {
    if (history_.shutdown_at == 0) {
      const auto proven = [this] { return cluster_.coordinator_up() && cluster_.state().proven; };
      if (!cluster_.RunUntil(proven, kReadyWithin)) return Wrong("not ready again: ", cluster_.state().detail);
      if (!cluster_.RunUntilAnswered(200 * kSecond)) Wrong("requests are open though there is a group");
      if (keyed_ != nullptr) SettleKeys();
      core::GenerateRequest last;
      last.id = kLastRequest;
      last.prompt = {1, 2, 3};
      last.max_tokens = 10;
      history_.requests.push_back(last);
      cluster_.Submit(last);
    }
    if (!cluster_.RunUntilAnswered(200 * kSecond)) Wrong("requests are open at the end");
    // What ended late has ended everywhere.
    cluster_.RunUntil(cluster_.now() + kSecond);
  }

  // All of them have an answer by now, and everybody who asks for it again gets it.
  void SettleKeys() {
    const auto settled = [this] { return keyed_->settled(); };
    if (!cluster_.RunUntil(settled, 200 * kSecond)) return Wrong("keys have no answer though there is a group");
    keyed_->AskForAll();
    if (!cluster_.RunUntil(settled, 200 * kSecond)) Wrong("keys have no answer though it was there");
  }

  const Scenario& s_;
  const RunOptions& options_;
  VirtualCluster cluster_;
  History history_;
  RunResult result_;
  std::vector<std::string> ids_;  // of agents, once and now
  int newcomers_ = 0;
  bool frozen_ = false;
  std::unique_ptr<Keyed> keyed_;  // null: nobody brings a key
  DurationNs crash_lasts_ = kSecond;
  bool crash_knows_epochs_ = true;
  DurationNs silent_ = 0, paused_ = 0;
  std::map<core::RequestId, std::vector<int32_t>> stop_strings_;
  std::vector<core::RequestId> going_;
};

}  // namespace

RunResult RunScenario(const Scenario& scenario, const RunOptions& options) { return Run(scenario, options).Go(); }

RunResult RunSeed(uint64_t seed, const RunOptions& options) {
  const Scenario scenario = MakeScenario(seed);
  return RunScenario(scenario, options);
}

}  // namespace shoal::sim
