// Tested by: tests/sim/cluster_test.cc
#include "tools/sim/virtual_coordinator.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/plan/wire.h"
#include "tools/sim/virtual_agent.h"

namespace shoal::sim {

VirtualCoordinator::VirtualCoordinator(World* world, Network* network, const core::CoreOptions& options,
                                       DurationNs timer_late, Observer* observer)
    : world_(world),
      network_(network),
      options_(options),
      timer_late_(timer_late),
      observer_(observer),
      core_(std::make_unique<core::Core>(options)) {}

void VirtualCoordinator::Do(std::function<void()> what) {
  if (!up()) return;
  if (frozen_) return backlog_.push_back(std::move(what));
  what();
}

void VirtualCoordinator::Post(const core::Event& event) {
  Do([this, event] {
    core::Event seen = event;
    observer_->Sees(&seen);
    const std::vector<core::Effect> effects = core_->OnEvent(seen, world_->now());
    core_->CheckInvariants();
    observer_->Took(seen);
    for (const core::Effect& effect : effects) {
      for (int copies = observer_->Copies(effect); copies > 0; --copies) {
        observer_->Carries(effect);
        std::visit([this](const auto& e) { Carry(e); }, effect);
      }
    }
  });
}

void VirtualCoordinator::Deliver(const LinkPtr& link, const core::Event& event) {
  Do([this, link, event] {
    if (!link->lost) Post(event);
  });
}

void VirtualCoordinator::Beat(const LinkPtr& link, const plan::Heartbeat& beat) {
  const auto refuse = [this, link] {
    network_->Send(link->peer->id(), Way::kToAgent, Network::NewStream(),
                   [link] { link->peer->SessionEnded(link, "not registered here"); });
  };
  if (!up()) return refuse();
  Do([this, link, beat, refuse] {
    if (link->lost) return refuse();
    Post(core::HeartbeatReceived{beat});
  });
}

LinkPtr VirtualCoordinator::Find(const plan::AgentId& id) const {
  const auto it = links_.find(id);
  return it == links_.end() || it->second->lost ? nullptr : it->second;
}

void VirtualCoordinator::Lose(const LinkPtr& link, const std::string& reason) {
  Do([this, link, reason] {
    if (std::exchange(link->lost, true)) return;
    Post(core::AgentLost{link->peer->id(), reason});
    for (const auto& [epoch, stream] : link->plans) stream->open = false;
    network_->Send(link->peer->id(), Way::kToAgent, Network::NewStream(),
                   [link, reason] { link->peer->SessionEnded(link, reason); });
  });
}

void VirtualCoordinator::Register(const std::shared_ptr<VirtualAgent>& agent, const plan::AgentInfo& info,
                                  std::function<void(const LinkPtr&)> reply) {
  Do([this, agent, info, reply = std::move(reply)] {
    if (const LinkPtr former = Find(info.id)) Lose(former, "it has registered again");
    const auto link = std::make_shared<Link>();
    link->peer = agent;
    links_[info.id] = link;
    Post(core::AgentRegistered{info});
    reply(link);
  });
}

void VirtualCoordinator::Freeze() { frozen_ = true; }

void VirtualCoordinator::Thaw(bool timer_first) {
  if (!std::exchange(frozen_, false)) return;
  if (timer_first) FireIfDue();
  for (const auto& what : std::exchange(backlog_, {})) Do(what);
  FireIfDue();
}

void VirtualCoordinator::Crash() {
  core_.reset();
  frozen_ = false;
  backlog_.clear();
  timer_ = 0;
  for (const auto& [id, link] : links_) {
    link->lost = true;
    for (const auto& [epoch, stream] : link->plans) stream->open = false;
    network_->Send(id, Way::kToAgent, Network::NewStream(),
                   [link = link] { link->peer->SessionEnded(link, "connection reset"); });
  }
  links_.clear();
}

void VirtualCoordinator::Restart(bool knows_epochs) {
  options_.incarnation += 1000;
  options_.stored_epoch = knows_epochs ? highest_epoch_ : 0;
  if (!knows_epochs) {
    ignorant_since_ = world_->now();
    options_.known_canaries.clear();
  }
  core_ = std::make_unique<core::Core>(options_);
}

void VirtualCoordinator::FireIfDue() {
  if (!up() || frozen_ || timer_ == 0 || timer_ > world_->now()) return;
  timer_ = 0;
  Post(core::TimerFired{});
}

void VirtualCoordinator::Carry(const core::SetTimer& e) {
  timer_ = e.at;
  world_->At(std::max(world_->now(), e.at) + timer_late_, [this, at = e.at] {
    if (timer_ == at) FireIfDue();
  });
}

void VirtualCoordinator::Send(const LinkPtr& link, const Network::StreamPtr& stream, std::function<void()> arrive) {
  network_->Send(link->peer->id(), Way::kToAgent, stream, [this, link, arrive = std::move(arrive)] {
    if (link->peer->alive()) return arrive();
    network_->Send(link->peer->id(), Way::kToCoordinator, Network::NewStream(),
                   [this, link] { Lose(link, "connection refused"); });
  });
}

void VirtualCoordinator::Carry(const core::SendJoin& e) {
  const LinkPtr link = Find(e.agent);
  if (link == nullptr) return;
  highest_epoch_ = std::max(highest_epoch_, e.join.epoch);
  Send(link, Network::NewStream(), [link, join = e.join] { link->peer->Join(link, join); });
}

void VirtualCoordinator::Carry(const core::SendLoad& e) {
  const LinkPtr link = Find(e.agent);
  if (link == nullptr) return;
  Send(link, Network::NewStream(), [link, load = e.load] { link->peer->Load(link, load); });
}

void VirtualCoordinator::Carry(const core::SendConnect& e) {
  const LinkPtr link = Find(e.agent);
  if (link == nullptr) return;
  Send(link, Network::NewStream(), [link, connect = e.connect] { link->peer->Connect(link, connect); });
}

void VirtualCoordinator::Carry(const core::SendPreload& e) {
  const LinkPtr link = Find(e.agent);
  if (link == nullptr) return;
  Send(link, Network::NewStream(), [link, join = e.join] { link->peer->Preload(link, join); });
}

void VirtualCoordinator::Carry(const core::SendPlan& e) {
  absl::StatusOr<plan::StepPlan> decoded = plan::DecodePlan(e.bytes);
  if (!decoded.ok()) return world_->Problem(decoded.status().ToString());
  if (!(decoded->stamp == e.stamp)) world_->Problem("stamp of frame and plan differ");
  const auto plan = std::make_shared<const plan::StepPlan>(*std::move(decoded));
  for (const plan::AgentId& id : e.agents) {
    const LinkPtr link = Find(id);
    if (link == nullptr) continue;
    Network::StreamPtr& stream = link->plans[e.stamp.epoch];
    if (stream == nullptr) stream = Network::NewStream();
    Send(link, stream, [link, plan] { link->peer->Plan(plan); });
  }
}

void VirtualCoordinator::Carry(const core::SendAbort& e) {
  const LinkPtr link = Find(e.agent);
  if (link == nullptr) return;
  highest_epoch_ = std::max(highest_epoch_, e.epoch);
  Send(link, Network::NewStream(), [link, epoch = e.epoch] { link->peer->Abort(epoch); });
}

void VirtualCoordinator::Carry(const core::SendDrain& e) {
  const LinkPtr link = Find(e.agent);
  if (link == nullptr) return;
  Send(link, Network::NewStream(), [link, e] { link->peer->Drain(e.epoch, e.state); });
}

}  // namespace shoal::sim
