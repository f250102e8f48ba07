// The coordinator's process: the real core, with what coordinator/rpc and the core's thread put around it. It can stand
// still, end, and start again. CheckInvariants runs after every event. Not thread-safe.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/core/core.h"
#include "tools/sim/network.h"

namespace shoal::sim {

class VirtualAgent;

// One registration of one agent, and the streams that belong to it.
struct Link {
  std::shared_ptr<VirtualAgent> peer;
  bool lost = false;  // the coordinator has given it up: nothing of it is heard any more
  Network::StreamPtr beats = Network::NewStream();
  std::map<uint64_t, Network::StreamPtr> plans;  // by epoch
};
using LinkPtr = std::shared_ptr<Link>;

class VirtualCoordinator {
 public:
  // What goes into the core and comes out of it; the observer may change it on its way.
  class Observer {
   public:
    virtual ~Observer() = default;
    virtual void Sees(core::Event* event) = 0;
    virtual int Copies(const core::Effect& effect) = 0;  // how often it is carried out: once, but for a test
    virtual void Took(const core::Event& event) = 0;     // the core has; its effects are carried out next
    virtual void Carries(const core::Effect& effect) = 0;
  };
  VirtualCoordinator(World* world, Network* network, const core::CoreOptions& options, DurationNs timer_late,
                     Observer* observer);

  // --- Messages that have arrived. While the process stands still they wait; when it has ended they are lost. ---
  void Post(const core::Event& event);
  void Deliver(const LinkPtr& link, const core::Event& event);  // unless the link is lost
  void Beat(const LinkPtr& link, const plan::Heartbeat& beat);  // the agent is told when its link is lost
  void Lose(const LinkPtr& link, const std::string& reason);
  // Takes the place of a former registration of the same id, which is lost. `reply` gets the link.
  void Register(const std::shared_ptr<VirtualAgent>& agent, const plan::AgentInfo& info,
                std::function<void(const LinkPtr&)> reply);
  LinkPtr Find(const plan::AgentId& id) const;  // null: none that lives

  // --- Faults ---
  void Freeze();
  void Thaw(bool timer_first);
  void Crash();                     // connections are reset
  void Restart(bool knows_epochs);  // a new incarnation; else it has lost what it stored
  // Time that passed without this process: its timer comes first.
  void FireIfDue();

  bool up() const { return core_ != nullptr; }
  bool frozen() const { return frozen_; }
  // When it was started without knowing that it had been there before; long ago: never.
  TimeNs ignorant_since() const { return ignorant_since_; }
  uint64_t highest_epoch() const { return highest_epoch_; }  // it has told anybody
  uint64_t incarnation() const { return options_.incarnation; }
  core::ClusterState state() const { return core_->State(world_->now()); }  // precondition: up

 private:
  void Do(std::function<void()> what);
  // The loss of the link when the agent's process is no more.
  void Send(const LinkPtr& link, const Network::StreamPtr& stream, std::function<void()> arrive);
  void Carry(const core::SendJoin& e);
  void Carry(const core::SendLoad& e);
  void Carry(const core::SendConnect& e);
  void Carry(const core::SendPreload& e);
  void Carry(const core::SendPlan& e);
  void Carry(const core::SendAbort& e);
  void Carry(const core::SendDrain& e);
  void Carry(const core::SetTimer& e);
  void Carry(const core::EmitTokens&) {}
  void Carry(const core::EmitPromptLogprobs&) {}
  void Carry(const core::FinishChoice&) {}
  void Carry(const core::FinishRequest&) {}
  void Carry(const core::LogLine&) {}
  void Carry(const core::Report&) {}
  // Stored as epochs are.
  void Carry(const core::CanaryLearned& e) { options_.known_canaries.push_back(e.known); }

  World* const world_;
  Network* const network_;
  core::CoreOptions options_;
  const DurationNs timer_late_;
  Observer* const observer_;
  std::unique_ptr<core::Core> core_;
  bool frozen_ = false;
  std::vector<std::function<void()>> backlog_;  // of a frozen process
  TimeNs timer_ = 0;                            // 0: none
  TimeNs ignorant_since_ = -3600 * kSecond;
  uint64_t highest_epoch_ = 0;  // as it would be stored
  std::map<plan::AgentId, LinkPtr> links_;
};

}  // namespace shoal::sim
