// Tested by: tests/sim/cluster_test.cc
#include "tools/sim/virtual_cluster.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/plan/wire.h"
#include "tools/sim/record.h"

namespace shoal::sim {
namespace {

constexpr size_t kHeard = 64;

// An agent to which nothing happened for so long has registered again, if it had to, and answers.
constexpr DurationNs kWell = 40 * kSecond;

// Messages that carry an epoch: a core must bear them at any time.
bool MayComeAgain(const core::Event& event) {
  return std::holds_alternative<core::JoinAnswered>(event) || std::holds_alternative<core::LoadAdvanced>(event) ||
         std::holds_alternative<core::LoadFailed>(event) || std::holds_alternative<core::PreloadAdvanced>(event) ||
         std::holds_alternative<core::PreloadFailed>(event) || std::holds_alternative<core::StepAnswered>(event) ||
         std::holds_alternative<core::RankExited>(event) || std::holds_alternative<core::HeartbeatReceived>(event);
}

}  // namespace

const std::vector<int32_t>& Answer::TokensOf(int32_t choice) const {
  static const std::vector<int32_t> none;
  if (choice == 0) return tokens;
  const auto it = others.find(choice);
  return it == others.end() ? none : it->second;
}

VirtualCluster::VirtualCluster(const core::CoreOptions& options, const ClusterTimes& times, uint64_t seed)
    : options_(options),
      times_(times),
      world_(seed),
      network_(&world_, {times.net_min, times.net_max, times.spike_permille, times.spike}),
      coordinator_(&world_, &network_, options, times.timer_late, this) {}

// Agents and what they have under way refer to each other.
VirtualCluster::~VirtualCluster() {
  for (const auto& [id, agent] : agents_) agent->Die();
}

// --- Agents ---

void VirtualCluster::NewAgent(const AgentSpec& spec, bool at_once) {
  AgentSurroundings around;
  around.world = &world_;
  around.network = &network_;
  around.coordinator = &coordinator_;
  around.times.read = times_.read_max;
  around.build_id = options_.build_id;
  around.cache_ids = &caches_made_;
  around.repeat_answers = &repeat_answers_;
  around.ranks_of = [this](const plan::JoinGroup& join) {
    return RanksOf(join.coordinator, join.epoch, {join.tp, join.pp});
  };
  around.on_read = [this](const VirtualAgent& reader, int32_t rank) { WasRead(reader, rank); };
  auto& agent = agents_[spec.id];
  if (agent != nullptr && agent->alive()) agent->Die();
  agent = std::make_shared<VirtualAgent>(spec, ++incarnations_[spec.id], around);
  agent->Start(at_once);
}

void VirtualCluster::AddAgent(const AgentSpec& spec) { NewAgent(spec, /*at_once=*/true); }

void VirtualCluster::StartAgent(const AgentSpec& spec) { NewAgent(spec, /*at_once=*/false); }

void VirtualCluster::KillAgent(const std::string& id) {
  agents_.at(id)->Die();
  if (const LinkPtr link = coordinator_.Find(id)) coordinator_.Lose(link, "connection reset");
}

void VirtualCluster::CrashAgent(const std::string& id, bool silent) {
  agents_.at(id)->Die();
  const LinkPtr link = coordinator_.Find(id);
  if (link == nullptr) return;
  if (silent) return world_.After(Keepalive(), [this, link] { coordinator_.Lose(link, "keepalive"); });
  network_.Send(id, Way::kToCoordinator, Network::NewStream(),
                [this, link] { coordinator_.Lose(link, "connection reset"); });
}

void VirtualCluster::FreezeAgent(const std::string& id, bool ranks_too) {
  const auto agent = agents_.at(id);
  agent->Freeze(ranks_too);
  const LinkPtr link = coordinator_.Find(id);
  if (link == nullptr) return;
  world_.After(Keepalive(), [this, agent, link, since = agent->troubled_at()] {
    if (agent->frozen() && agent->troubled_at() == since) coordinator_.Lose(link, "keepalive");
  });
}

void VirtualCluster::ThawAgent(const std::string& id) { agents_.at(id)->Thaw(); }

bool VirtualCluster::KillRank(int32_t rank, const std::string& cause) {
  bool killed = false;
  for (const auto& [id, agent] : agents_) killed = agent->KillRank(rank, cause) || killed;
  return killed;
}

std::shared_ptr<VirtualRanks> VirtualCluster::PresentRanks() {
  const core::ClusterState now = state();
  return RanksOf(coordinator_.incarnation(), now.epoch, now.layout);
}

std::shared_ptr<VirtualRanks> VirtualCluster::RanksOf(uint64_t coordinator, uint64_t epoch,
                                                      const core::Layout& layout) {
  std::weak_ptr<VirtualRanks>& known = ranks_[{coordinator, epoch}];
  std::shared_ptr<VirtualRanks> ranks = known.lock();
  if (ranks != nullptr) return ranks;
  VirtualRanks::Hooks hooks;
  hooks.on_start = [this](int stage, DurationNs takes) { busy_[stage] += takes; };
  hooks.on_end = [this, coordinator, epoch](uint64_t step) {
    const auto it = sent_.find(step);
    if (epoch_.epoch == epoch && epoch_.incarnation == coordinator && it != sent_.end()) {
      plans_[it->second.trace].ended = world_.now();
    }
  };
  ranks = std::make_shared<VirtualRanks>(&world_, layout.tp, layout.pp, StepTimes{times_.step_min, times_.step_max},
                                         &faults_, hooks);
  known = ranks;
  return ranks;
}

void VirtualCluster::WasRead(const VirtualAgent& reader, int32_t rank) {
  Read read{world_.now(), reader.id(), rank, {}};
  // The first agent that comes may be one that knows of nothing either.
  const bool known = world_.now() - coordinator_.ignorant_since() > kWell;
  // An agent goes on with what it was told until it hears that this is over, or that the one who said so is.
  const bool wanted = reader.epoch() == coordinator_.highest_epoch() && reader.session() != nullptr &&
                      coordinator_.Find(reader.id()) == reader.session();
  for (const auto& [id, agent] : agents_) {
    if (Leaves(id) || agent->weights_key() != reader.weights_key()) continue;
    const bool well = agent->alive() && !agent->frozen() && network_.whole(id) && known && wanted;
    if (agent.get() != &reader && agent->Had(rank) && well && world_.now() - agent->troubled_at() > kWell) {
      read.holder = id;
    }
  }
  world_.Trace(absl::StrCat("agent ", reader.id(), " reads the weights of rank ", rank));
  reads_.push_back(std::move(read));
}

bool VirtualCluster::Leaves(const std::string& id) const {
  using State = core::ClusterState::AgentState;
  const core::ClusterState now = state();
  return std::any_of(now.agents.begin(), now.agents.end(), [&](const core::ClusterState::Agent& agent) {
    return agent.info.id == id && (agent.state == State::kDraining || agent.state == State::kDrained);
  });
}

// --- Network ---

void VirtualCluster::Cut(const std::string& id, bool to_agent, bool to_coordinator) {
  if (to_agent) network_.Cut(id, Way::kToAgent);
  if (to_coordinator) network_.Cut(id, Way::kToCoordinator);
  const auto agent = agents_.at(id);
  agent->Troubled();
  const uint64_t cut = cut_of_[id] = ++cuts_;
  const LinkPtr link = coordinator_.Find(id), session = agent->session();
  world_.After(Keepalive(), [this, id, cut, link] {
    if (cut_of_[id] == cut && link != nullptr) coordinator_.Lose(link, "keepalive");
  });
  world_.After(Keepalive(), [this, id, cut, agent, session] {
    if (cut_of_[id] == cut && session != nullptr) agent->SessionEnded(session, "keepalive");
  });
}

void VirtualCluster::Heal(const std::string& id) {
  network_.Heal(id);
  cut_of_[id] = 0;
  agents_.at(id)->Troubled();
}

void VirtualCluster::ResetConnection(const std::string& id) {
  agents_.at(id)->Troubled();
  if (const LinkPtr link = coordinator_.Find(id)) coordinator_.Lose(link, "connection reset");
}

void VirtualCluster::Ghosts(int count) {
  for (int i = 0; i < count && !heard_.empty(); ++i) {
    const core::Event ghost = heard_[world_.Draw() % heard_.size()];
    world_.After(world_.Between(0, 20 * kMillisecond), [this, ghost] { coordinator_.Post(ghost); });
  }
}

// --- Coordinator ---

void VirtualCluster::Pause(TimeNs at) {
  world_.Skip(at);
  coordinator_.FireIfDue();
}

void VirtualCluster::FreezeCoordinator() {
  coordinator_.Freeze();
  ++freezes_;
  for (const auto& [id, agent] : agents_) {
    const LinkPtr session = agent->session();
    if (session == nullptr) continue;
    world_.After(Keepalive(), [this, agent = agent, session, freeze = freezes_] {
      if (!coordinator_.frozen() || freezes_ != freeze) return;
      agent->Troubled();
      agent->SessionEnded(session, "keepalive");
    });
  }
}

void VirtualCluster::Jump(DurationNs by, bool timer_first) {
  std::vector<std::shared_ptr<VirtualAgent>> stood;
  for (const auto& [id, agent] : agents_) {
    if (agent->alive() && !agent->frozen()) stood.push_back(agent);
  }
  const bool coordinator = coordinator_.up() && !coordinator_.frozen();
  for (const auto& agent : stood) agent->Freeze(/*ranks_too=*/false);
  if (coordinator) coordinator_.Freeze();
  world_.Skip(world_.now() + by);
  if (coordinator) coordinator_.Thaw(timer_first);
  for (const auto& agent : stood) agent->Thaw();
}

void VirtualCluster::CrashCoordinator() {
  coordinator_.Crash();
  for (auto& [id, answer] : answers_) {
    if (answer.finishes > 0 || answer.refused || answer.cut) continue;
    answer.cut = true;
    answer.finished_at = world_.now();
    --open_;
  }
  // Ghosts of answers to plans must be told by their stamp; what else there was ended with its connections.
  std::erase_if(heard_, [](const core::Event& e) { return !std::holds_alternative<core::StepAnswered>(e); });
}

core::ClusterState VirtualCluster::state() const {
  return coordinator_.up() ? coordinator_.state() : core::ClusterState{};
}

// --- Clients ---

void VirtualCluster::Submit(const core::GenerateRequest& request) {
  Answer& answer = answers_[request.id];
  answer.submitted_at = world_.now();
  if (!coordinator_.up()) {
    answer.refused = true;
    return;
  }
  ++open_;
  core::GenerateRequest r = request;
  r.arrived = world_.now();
  Post(core::RequestArrived{r});
}

void VirtualCluster::SubmitAt(TimeNs at, const core::GenerateRequest& request) {
  ++open_;
  At(at, [this, request] {
    --open_;
    Submit(request);
  });
}

// --- Time ---

void VirtualCluster::RunUntil(TimeNs at) {
  while (world_.Step(at)) {
  }
  world_.Skip(at);
}

bool VirtualCluster::RunUntil(const std::function<bool()>& done, DurationNs limit) {
  const TimeNs end = world_.now() + limit;
  while (!done()) {
    if (!world_.Step(end)) return false;
  }
  return true;
}

bool VirtualCluster::RunUntilReady(DurationNs limit) {
  return RunUntil([this] { return coordinator_.up() && state().phase == core::ClusterState::Phase::kReady; }, limit);
}

// --- What goes in and comes out ---

void VirtualCluster::Sees(core::Event* event) {
  if (const auto* answer = std::get_if<core::StepAnswered>(event)) CompareStates(answer->result);
  if (tamper_.event != nullptr) tamper_.event(event);
  ++events_;
  hash_ = Digest(Fold(hash_, static_cast<uint64_t>(world_.now())), *event);
  if (world_.tracing()) world_.Trace(absl::StrCat("-> ", Describe(*event)));
  if (!MayComeAgain(*event)) return;
  heard_.push_back(*event);
  if (heard_.size() > kHeard) heard_.pop_front();
}

int VirtualCluster::Copies(const core::Effect& effect) {
  return tamper_.copies == nullptr ? 1 : tamper_.copies(effect);
}

void VirtualCluster::Took(const core::Event& event) {
  const auto* answer = std::get_if<core::StepAnswered>(&event);
  if (answer == nullptr) return;
  const plan::Stamp& stamp = answer->result.stamp;
  const core::Layout layout = layouts_[stamp.epoch];
  if (answer->result.rank != (layout.pp - 1) * layout.tp) return;
  const auto it = sent_.find(stamp.step);
  if (stamp.epoch != epoch_.epoch || stamp.incarnation != epoch_.incarnation || it == sent_.end()) return;
  plans_[it->second.trace].answered = world_.now();
  --in_flight_;
  for (const plan::SequenceId id : it->second.ids) --unanswered_[id];
  sent_.erase(it);
}

// A group whose ranks told different checksums of one state is not used any more, nor is what its caches hold.
void VirtualCluster::CompareStates(const plan::StepResult& result) {
  if (result.checksum == 0 || result.stamp.epoch != epoch_.epoch || result.stamp.incarnation != epoch_.incarnation) {
    return;
  }
  // Nobody looks at what comes when the group has been lost for another reason.
  if (!coordinator_up() || state().epoch != result.stamp.epoch) return;
  const int32_t tp = layouts_[result.stamp.epoch].tp, stage = result.rank / tp;
  auto& told = states_[{result.stamp.step, stage}];
  told.emplace(result.rank, result.checksum);
  if (static_cast<int32_t>(told.size()) < tp) return;
  for (const auto& [rank, checksum] : told) {
    if (checksum == StateChecksum(result.stamp.step, stage)) continue;
    distrusted_ = epoch_;
  }
}

void VirtualCluster::CheckTrust(const plan::StepPlan& plan) {
  const std::set<int32_t> before = Written(plan);
  // The group that came after it is over, too.
  if (plan.stamp.epoch != epoch_.epoch && epoch_.epoch != distrusted_.epoch) distrusted_ = {};
  if (distrusted_.epoch == 0 || plan.stamp.incarnation != distrusted_.incarnation) return;
  if (plan.stamp.epoch == distrusted_.epoch) {
    return world_.Problem(absl::StrCat("a plan for epoch ", plan.stamp.epoch, ", whose ranks hold different states"));
  }
  for (const plan::SequenceStart& start : plan.starts) {
    const int32_t blocks = plan::BlocksFor(start.kv_tokens, options_.engine.block_size);
    for (int32_t i = 0; i < blocks; ++i) {
      if (before.contains(start.blocks[i])) continue;  // a sibling's, of this group
      world_.Problem(absl::StrCat("sequence ", start.id, " goes on with KV that may be wrong"));
    }
  }
}

// The blocks that tables of the plan's group got so far, and those that this plan copies. Then come its own.
std::set<int32_t> VirtualCluster::Written(const plan::StepPlan& plan) {
  if (written_in_ != plan.stamp.epoch) written_.clear();
  written_in_ = plan.stamp.epoch;
  std::set<int32_t> before;
  for (const plan::SequenceStart& start : plan.starts) {
    for (const int32_t block : start.blocks) {
      if (written_.contains(block)) before.insert(block);
    }
  }
  for (const plan::BlockCopy& copy : plan.copies) before.insert(copy.dst);
  for (const plan::SequenceStart& start : plan.starts) written_.insert(start.blocks.begin(), start.blocks.end());
  for (const plan::BlocksAdded& added : plan.blocks_added) written_.insert(added.blocks.begin(), added.blocks.end());
  return before;
}

void VirtualCluster::Carries(const core::Effect& effect) {
  hash_ = Digest(hash_, effect);
  if (world_.tracing()) world_.Trace(absl::StrCat("   ", Describe(effect)));
  std::visit([this](const auto& e) { On(e); }, effect);
}

void VirtualCluster::On(const core::SendPlan& e) {
  const absl::StatusOr<plan::StepPlan> plan = plan::DecodePlan(e.bytes);
  if (!plan.ok()) return;  // the coordinator's process says so
  CheckTrust(*plan);
  if (e.stamp.epoch != epoch_.epoch || e.stamp.incarnation != epoch_.incarnation) {
    sent_.clear();
    unanswered_.clear();
    states_.clear();
    in_flight_ = 0;
  }
  epoch_ = e.stamp;
  uint64_t hash = 0;
  for (const char c : e.bytes) hash = Fold(hash, static_cast<unsigned char>(c));
  Sent& sent = sent_[e.stamp.step];
  sent.trace = plans_.size();
  int32_t decode_rows = 0;
  for (const plan::Row& row : plan->rows) {
    decode_rows += row.source == plan::TokenSource::kLastSample ? 1 : 0;
    sent.ids.push_back(row.id);
    max_unanswered_ = std::max(max_unanswered_, ++unanswered_[row.id]);
  }
  max_in_flight_ = std::max(max_in_flight_, ++in_flight_);
  plans_.push_back({e.stamp.epoch, e.stamp.step, plan->cohort, plan->TokenCount(), decode_rows, hash,
                    static_cast<int32_t>(plan->rows.size()), plan->bucket, plan->checksum, world_.now(), 0, 0});
}

Answer* VirtualCluster::Open(core::RequestId id, const char* what) {
  const auto it = answers_.find(id);
  if (it == answers_.end()) {
    world_.Problem(absl::StrCat(what, " of request ", id, ", which nobody made"));
    return nullptr;
  }
  if (it->second.finishes > 0 || it->second.cut)
    world_.Problem(absl::StrCat(what, " of request ", id, " after its end"));
  return &it->second;
}

void VirtualCluster::On(const core::EmitTokens& e) {
  Answer* const a = Open(e.id, "tokens");
  if (a == nullptr) return;
  if (a->ended.contains(e.choice)) world_.Problem(absl::StrCat("tokens of a choice of ", e.id, " after its end"));
  std::vector<int32_t>& tokens = e.choice == 0 ? a->tokens : a->others[e.choice];
  tokens.insert(tokens.end(), e.tokens.begin(), e.tokens.end());
  std::vector<plan::TokenLogprobs>& logprobs = a->logprobs[e.choice];
  logprobs.insert(logprobs.end(), e.logprobs.begin(), e.logprobs.end());
  if (on_tokens_ != nullptr && e.choice == 0) on_tokens_(e.id, *a);
}

void VirtualCluster::On(const core::EmitPromptLogprobs& e) {
  Answer* const a = Open(e.id, "log-probabilities");
  if (a == nullptr) return;
  if (!a->prompt_logprobs.empty()) world_.Problem(absl::StrCat("log-probabilities of the prompt of ", e.id, " twice"));
  a->prompt_logprobs = e.logprobs;
}

void VirtualCluster::On(const core::FinishChoice& e) {
  Answer* const a = Open(e.id, "the end of a choice");
  if (a != nullptr && !a->ended.emplace(e.choice, e.reason).second) {
    world_.Problem(absl::StrCat("choice ", e.choice, " of request ", e.id, " ended twice"));
  }
}

void VirtualCluster::On(const core::FinishRequest& e) {
  const auto it = answers_.find(e.id);
  if (it == answers_.end()) return world_.Problem(absl::StrCat("the end of request ", e.id, ", which nobody made"));
  Answer& a = it->second;
  if (++a.finishes > 1 || a.cut) return world_.Problem(absl::StrCat("request ", e.id, " ended twice"));
  a.finish = e;
  a.finished_at = world_.now();
  --open_;
  if (on_end_ != nullptr) on_end_(e, a);
}

bool VirtualCluster::Logged(const std::string& part) const {
  return std::any_of(log_.begin(), log_.end(),
                     [&](const core::LogLine& line) { return line.text.find(part) != std::string::npos; });
}

}  // namespace shoal::sim
