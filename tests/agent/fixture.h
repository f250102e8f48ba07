// A coordinator's agents (coordinator/rpc) and real agents in threads of the test, with real rank processes. The test
// is the core: it posts effects and waits for events.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/base/mutex.h"
#include "common/plan/plan_check.h"
#include "common/plan/shard_plan.h"
#include "coordinator/rpc/agents.h"
#include "tests/testing/temp_dir.h"
#include "worker/agent/agent.h"

namespace shoal::testing {

inline constexpr auto kPatience = std::chrono::seconds(60);  // ends a broken test, decides nothing

// Events in the order in which they came.
class EventLog {
 public:
  void Post(core::Event event);
  // Takes the first event of this kind for which `wanted` holds (those before it stay); nullopt when none came in time.
  template <typename T>
  std::optional<T> Take(const std::function<bool(const T&)>& wanted = [](const T&) { return true; }) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    MutexLock lock(mutex_);
    while (true) {
      for (auto it = events_.begin(); it != events_.end(); ++it) {
        const T* event = std::get_if<T>(&*it);
        if (event == nullptr || !wanted(*event)) continue;
        T taken = *event;
        events_.erase(it);
        return taken;
      }
      const auto left = deadline - std::chrono::steady_clock::now();
      if (left.count() <= 0) return std::nullopt;
      came_.WaitFor(mutex_, left);
    }
  }
  // How many events of this kind are there now.
  template <typename T>
  int Count() {
    MutexLock lock(mutex_);
    int n = 0;
    for (const core::Event& e : events_) n += std::holds_alternative<T>(e) ? 1 : 0;
    return n;
  }

 private:
  Mutex mutex_;
  CondVar came_;
  std::deque<core::Event> events_ SHOAL_GUARDED_BY(mutex_);
};

// RunAgent in a thread.
class AgentThread {
 public:
  explicit AgentThread(agent::AgentOptions options);
  ~AgentThread();
  // Tells it to stop, and waits.
  absl::Status Stop();
  // Waits for its own end.
  absl::Status Join();

 private:
  std::atomic<bool> stop_{false};
  absl::Status result_;
  std::thread thread_;
};

// A coordinator's end with one build id, on a port that a test can choose.
std::unique_ptr<rpc::Agents> StartAgents(EventLog* log, const std::string& listen = "127.0.0.1:0",
                                         uint64_t incarnation = 7, std::shared_ptr<rpc::StaleTally> stale = nullptr);
agent::AgentOptions OptionsFor(const std::string& coordinator, int slots);
int FreePort();

// A tiny model on disk and the groups made of it.
class TinyGroup {
 public:
  TinyGroup(EventLog* log, rpc::Agents* agents, const std::string& device, const std::string& transport = "auto");

  // Ranks in order over the agents' slots. The join, sent to all agents.
  void Join(uint64_t epoch, int tp, int pp, const std::vector<plan::AgentInfo>& agents);
  plan::JoinGroup MakeJoin(uint64_t epoch, int tp, int pp, const std::vector<plan::AgentInfo>& agents) const;
  // Joins, loads and waits; what each agent said at the end of its load.
  std::vector<plan::LoadProgress> Form(uint64_t epoch, int tp, int pp, const std::vector<plan::AgentInfo>& agents);
  // Loads as far as addresses are published: those of all ranks, or fewer when an agent does not.
  plan::ConnectRanks LoadUntilPublished(uint64_t epoch, const std::vector<plan::AgentInfo>& agents);
  // One prompt, greedy: `count` tokens from the sampling rank. Each step waits for the answers of all ranks.
  std::vector<int32_t> Generate(const std::vector<int32_t>& prompt, int count);

  // The first step of another sequence, without waiting for its answers.
  void SendStep();

  const std::vector<plan::JoinReply>& replies() const { return replies_; }
  const model::ModelFiles& files() const { return files_; }
  plan::MirrorLimits limits() const;

 private:
  bool TakeJoins(uint64_t epoch, size_t agents);
  plan::Stamp Send(plan::StepPlan plan);
  plan::StepResult RunStep(plan::StepPlan plan);

  EventLog* log_;
  rpc::Agents* agents_;
  TempDir dir_;
  model::ModelFiles files_;
  plan::EngineOptions engine_;
  std::vector<plan::AgentId> members_;
  std::vector<plan::JoinReply> replies_;
  uint64_t epoch_ = 0, step_ = 0;
  int ranks_ = 0, sampling_rank_ = 0;
  std::unique_ptr<plan::PlanMirror> mirror_;
  uint64_t next_sequence_ = 1;
  plan::SequenceId ended_ = 0;  // to be ended by the next plan; 0: none
};

// The ranks whose parent is this process, dead ones that nobody has reaped included. (A sanitizer has children of its
// own.)
std::vector<int> Children();

}  // namespace shoal::testing
