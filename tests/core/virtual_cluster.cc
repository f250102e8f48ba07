#include "tests/core/virtual_cluster.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/rng.h"
#include "common/plan/wire.h"

namespace shoal::core {
namespace {

uint64_t Fold(uint64_t hash, uint64_t x) {
  hash = (hash ^ x) * 0x100000001b3;
  return hash ^ (hash >> 29);
}

// The model: what comes after `tokens`.
int32_t NextToken(uint64_t hash, const plan::SamplingParams& sampling, int32_t position) {
  if (sampling.temperature > 0) hash = Fold(Fold(hash, sampling.seed), static_cast<uint64_t>(position));
  return static_cast<int32_t>(Fold(hash, 1) % kVocab);
}

}  // namespace

CoreOptions TestOptions() {
  CoreOptions o;
  o.model_path = "model";
  o.revision = "r1";
  o.build_id = "b1";
  o.model.layers = 6;
  o.model.hidden = 96;
  o.model.heads = 6;
  o.model.kv_heads = 3;
  o.model.head_dim = 32;
  o.model.ffn = 192;
  o.model.vocab = kVocab;
  o.model.max_position = 256;
  o.model.rope.dim = 32;
  o.model.attention_scale = 0.125f;
  o.engine.block_size = 4;
  o.max_num_seqs = 64;
  o.max_num_batched_tokens = 128;
  o.incarnation = 77;
  return o;
}

std::vector<int32_t> LoneRun(const GenerateRequest& request, FinishReason* reason) {
  std::vector<int32_t> out;
  uint64_t hash = 0;
  for (int32_t token : request.prompt) hash = Fold(hash, static_cast<uint64_t>(token));
  int32_t position = static_cast<int32_t>(request.prompt.size());
  *reason = FinishReason::kLength;
  while (static_cast<int32_t>(out.size()) < request.max_tokens) {
    const int32_t token = NextToken(hash, request.sampling, position++);
    if (std::find(request.stop_tokens.begin(), request.stop_tokens.end(), token) != request.stop_tokens.end()) {
      *reason = FinishReason::kStop;
      break;
    }
    out.push_back(token);
    hash = Fold(hash, static_cast<uint64_t>(token));
  }
  return out;
}

struct VirtualCluster::Agent {
  AgentSpec spec;
  uint64_t incarnation = 1;
  bool alive = true, frozen = false;
  uint64_t epoch = 0;
  TimeNs last_said = 0;
  std::vector<int32_t> ranks;
  bool publishes = false;                   // its ranks need addresses
  uint64_t loading = 0;                     // epoch of the load in progress; 0: none
  std::vector<std::function<void()>> held;  // what it would have said or heard while frozen
};

// One mirror and one cache stand for all ranks: they run the same plans in the same order.
struct VirtualCluster::Executor {
  explicit Executor(uint64_t e, const plan::MirrorLimits& limits, int pp, TimeNs now)
      : epoch(e), mirror(limits), kv(static_cast<size_t>(limits.blocks) * limits.block_size, -7), free_at(pp, now) {}
  uint64_t epoch;
  plan::PlanMirror mirror;
  std::vector<int32_t> kv;  // [blocks * block_size] token ids
  std::map<plan::SequenceId, int32_t> last_sample;
  std::vector<TimeNs> free_at;  // [pp]
  std::map<plan::SequenceId, TimeNs> sampled_at;
  bool dead = false;  // a rank is gone: nothing is answered
};

VirtualCluster::VirtualCluster(CoreOptions options, ClusterTimes times, uint64_t seed)
    : options_(options), times_(times), seed_(seed), core_(options) {}

void VirtualCluster::Problem(const std::string& text) { problems_.push_back(absl::StrCat(now_, " ns: ", text)); }

DurationNs VirtualCluster::Between(DurationNs low, DurationNs high) {
  if (high <= low) return low;
  return low + static_cast<DurationNs>(RandomBits(seed_, 1, ++draws_) % static_cast<uint64_t>(high - low));
}

void VirtualCluster::At(TimeNs at, std::function<void()> what) { queue_.push({at, ++order_, std::move(what)}); }

void VirtualCluster::Post(const Event& event) {
  std::vector<Effect> effects = core_.OnEvent(event, now_);
  core_.CheckInvariants();
  Carry(effects);
}

void VirtualCluster::Carry(const std::vector<Effect>& effects) {
  for (const Effect& effect : effects) std::visit([this](const auto& e) { On(e); }, effect);
}

void VirtualCluster::RunUntil(TimeNs at) {
  while (!queue_.empty() && queue_.top().at <= at) {
    Item item = queue_.top();
    queue_.pop();
    now_ = std::max(now_, item.at);
    item.what();
  }
  now_ = std::max(now_, at);
}

bool VirtualCluster::RunUntil(const std::function<bool()>& done, DurationNs limit) {
  const TimeNs end = now_ + limit;
  while (!done()) {
    if (queue_.empty() || queue_.top().at > end) return false;
    RunUntil(queue_.top().at);
  }
  return true;
}

void VirtualCluster::Pause(TimeNs at) {
  deaf_until_ = at;
  now_ = at;
  if (timer_ != 0 && timer_ <= at) {
    timer_ = 0;
    Post(TimerFired{});
  }
}

void VirtualCluster::Submit(const GenerateRequest& request) {
  answers_[request.id];
  ++open_;
  GenerateRequest r = request;
  r.arrived = now_;
  Post(RequestArrived{r});
}

void VirtualCluster::SubmitAt(TimeNs at, const GenerateRequest& request) {
  ++open_;
  At(at, [this, request] {
    --open_;
    Submit(request);
  });
}

void VirtualCluster::Cancel(RequestId id, CancelCause cause) { Post(RequestCancelled{id, cause}); }

void VirtualCluster::AddAgent(const AgentSpec& spec) {
  auto& agent = agents_[spec.id];
  const uint64_t incarnation = agent ? agent->incarnation + 1 : 1;
  agent = std::make_shared<Agent>();
  agent->spec = spec;
  agent->incarnation = incarnation;
  plan::AgentInfo info;
  info.id = spec.id;
  info.incarnation = incarnation;
  info.hostname = absl::StrCat("host-", spec.boot_id);
  info.boot_id = spec.boot_id;
  info.build_id = options_.build_id;
  info.slots.resize(spec.slots, {"null", 1, spec.memory_bytes});
  info.highest_epoch = spec.highest_epoch;
  info.held_ranks = spec.held_ranks;
  info.held_model = spec.held_model;
  Post(AgentRegistered{info});
  Beat(spec.id, incarnation);
}

void VirtualCluster::Beat(const std::string& id, uint64_t incarnation) {
  At(now_ + 400 * kMillisecond, [this, id, incarnation] {
    const Agent& agent = *agents_.at(id);
    if (!agent.alive || agent.incarnation != incarnation) return;
    plan::Heartbeat beat;
    beat.agent = id;
    beat.incarnation = incarnation;
    beat.epoch = agent.epoch;
    if (!agent.frozen && now_ >= deaf_until_) Post(HeartbeatReceived{beat});
    Beat(id, incarnation);
  });
}

void VirtualCluster::Say(const std::string& id, TimeNs at, const Event& event, std::function<bool()> before) {
  std::shared_ptr<Agent> agent = agents_.at(id);
  agent->last_said = std::max(agent->last_said, at + Between(times_.net_min, times_.net_max));
  const auto deliver = [this, agent, event, before] {
    if (!agent->alive) return;
    if (before == nullptr || before()) Post(event);
  };
  At(agent->last_said, [agent, deliver] {
    if (agent->frozen) {
      agent->held.push_back(deliver);
    } else {
      deliver();
    }
  });
}

void VirtualCluster::KillAgent(const std::string& id) {
  agents_.at(id)->alive = false;
  Post(AgentLost{id, "connection reset"});
}

void VirtualCluster::FreezeAgent(const std::string& id) { agents_.at(id)->frozen = true; }

void VirtualCluster::ThawAgent(const std::string& id) {
  agents_.at(id)->frozen = false;
  for (const auto& what : std::exchange(agents_.at(id)->held, {})) what();
}

void VirtualCluster::KillRank(int32_t rank, const std::string& cause) {
  for (const auto& [id, agent] : agents_) {
    if (std::find(agent->ranks.begin(), agent->ranks.end(), rank) == agent->ranks.end()) continue;
    if (executor_ == nullptr || executor_->epoch != agent->epoch) continue;  // joining
    executor_->dead = true;
    if (const uint64_t epoch = std::exchange(agent->loading, 0); epoch != 0) {
      Say(id, now_, LoadFailed{id, epoch, absl::AbortedError(absl::StrCat("rank ", rank, " ", cause))});
      continue;
    }
    // Not behind the answers of steps that would have ended later.
    At(now_ + Between(times_.net_min, times_.net_max),
       [this, event = RankExited{id, {rank, 4711, executor_->epoch, cause}}] { Post(event); });
  }
}

void VirtualCluster::RefuseJoins(const std::string& id, const absl::Status& why) {
  agents_.at(id)->spec.join_error = why;
}

void VirtualCluster::RefuseLoads(const std::string& id, const absl::Status& why) {
  agents_.at(id)->spec.load_error = why;
}

void VirtualCluster::On(const SendJoin& e) {
  auto it = agents_.find(e.agent);
  if (it == agents_.end() || !it->second->alive) return;
  Agent& agent = *it->second;
  if (agent.frozen) return agent.held.push_back([this, e] { On(e); });
  joins_.push_back(e);
  if (e.join.epoch < agent.epoch) return;  // as agents do
  agent.epoch = e.join.epoch;
  agent.ranks.clear();
  agent.publishes = e.join.engine.transport != "shm";
  agent.loading = 0;
  plan::JoinReply reply;
  reply.numerics_id = agent.spec.numerics_id;
  for (const plan::RankAssignment& a : e.join.ranks) {
    if (a.agent != e.agent) continue;
    agent.ranks.push_back(a.rank);
    reply.ranks.push_back({a.rank, 1000, 1000, agent.spec.kv_bytes_per_block, agent.spec.memory_bytes});
  }
  absl::StatusOr<plan::JoinReply> answer = reply;
  if (!agent.spec.join_error.ok()) answer = agent.spec.join_error;
  Say(e.agent, now_ + Between(0, 5 * kMillisecond), JoinAnswered{e.agent, e.join.epoch, answer});
}

void VirtualCluster::On(const SendLoad& e) {
  auto it = agents_.find(e.agent);
  if (it == agents_.end() || !it->second->alive) return;
  if (it->second->frozen) return it->second->held.push_back([this, e] { On(e); });
  Agent& agent = *it->second;
  if (e.load.epoch < agent.epoch) return;  // as agents do
  const absl::Status& error = agent.spec.load_error;
  if (!error.ok()) return Say(e.agent, now_, LoadFailed{e.agent, e.load.epoch, error});
  agent.loading = e.load.epoch;
  if (executor_ == nullptr || executor_->epoch != e.load.epoch) {
    executor_ = std::make_shared<Executor>(e.load.epoch, e.load.limits, options_.pp, now_);
    unanswered_.clear();
    in_flight_ = 0;
  }
  Say(e.agent, now_, LoadAdvanced{e.load.epoch, {e.agent, 500, 1000, false, false, 500, {}}});
  if (!agent.publishes) return Loaded(e.agent, e.load.epoch);
  plan::LoadProgress published{e.agent, 1000, 1000, false, false, 1000, {}};
  for (const int32_t rank : agent.ranks) published.addresses.push_back({rank, absl::StrCat("rank ", rank)});
  Say(e.agent, now_ + Between(0, 5 * kMillisecond), LoadAdvanced{e.load.epoch, published});
}

void VirtualCluster::On(const SendConnect& e) {
  connects_.push_back(e);
  auto it = agents_.find(e.agent);
  if (it == agents_.end() || !it->second->alive) return;
  if (it->second->frozen) return it->second->held.push_back([this, e] { On(e); });
  if (it->second->loading == e.connect.epoch) Loaded(e.agent, e.connect.epoch);
}

void VirtualCluster::Loaded(const std::string& id, uint64_t epoch) {
  Agent& agent = *agents_.at(id);
  Say(id, now_ + Between(0, 5 * kMillisecond), LoadAdvanced{epoch, {id, 1000, 1000, true, false, 1000, {}}},
      [&agent, epoch] {
        if (agent.loading != epoch) return false;
        agent.loading = 0;
        return true;
      });
}

void VirtualCluster::On(const SendAbort& e) {
  aborts_.push_back(e);
  auto it = agents_.find(e.agent);
  if (it == agents_.end()) return;
  it->second->epoch = std::max(it->second->epoch, e.epoch);
  if (executor_ != nullptr && executor_->epoch < e.epoch) executor_->dead = true;
}

void VirtualCluster::On(const SendPlan& e) {
  absl::StatusOr<plan::StepPlan> plan = plan::DecodePlan(e.bytes);
  if (!plan.ok()) return Problem(plan.status().ToString());
  if (!(plan->stamp == e.stamp)) Problem("stamp of frame and plan differ");
  if (executor_ == nullptr || executor_->dead || plan->stamp.epoch != executor_->epoch) return;
  for (const plan::AgentId& id : e.agents) {
    if (!agents_.at(id)->alive) executor_->dead = true;
  }
  uint64_t hash = 0;
  for (char c : e.bytes) hash = Fold(hash, static_cast<unsigned char>(c));
  Execute(*plan, hash);
}

void VirtualCluster::Execute(const plan::StepPlan& plan, uint64_t bytes_hash) {
  Executor& x = *executor_;
  const absl::Status status = x.mirror.Apply(plan, /*check_digest=*/true);
  if (!status.ok()) return Problem(status.ToString());
  const int32_t bs = x.mirror.limits().block_size;
  plan::StepResult result;
  result.stamp = plan.stamp;
  std::vector<plan::SequenceId> ids;
  TimeNs done = now_ + Between(times_.net_min, times_.net_max);
  int32_t decode_rows = 0;
  for (const plan::Row& row : plan.rows) {
    const plan::MirroredSequence& s = *x.mirror.Find(row.id);
    const bool last = row.source == plan::TokenSource::kLastSample;
    if (last) done = std::max(done, x.sampled_at.at(row.id));  // stage 0 waits for the token
    decode_rows += last ? 1 : 0;
    for (int32_t p = row.position; p < row.position + row.count; ++p) {
      x.kv[s.blocks[p / bs] * bs + p % bs] = last ? x.last_sample.at(row.id) : s.tokens[p];
    }
    ids.push_back(row.id);
    max_unanswered_ = std::max(max_unanswered_, ++unanswered_[row.id]);
  }
  max_in_flight_ = std::max(max_in_flight_, ++in_flight_);
  for (const plan::Row& row : plan.rows) {
    if (row.output != plan::RowOutput::kSample) continue;
    const plan::MirroredSequence& s = *x.mirror.Find(row.id);
    uint64_t hash = 0;
    const int32_t end = row.position + row.count;
    for (int32_t p = 0; p < end; ++p) hash = Fold(hash, static_cast<uint64_t>(x.kv[s.blocks[p / bs] * bs + p % bs]));
    const int32_t token = NextToken(hash, s.sampling, end);
    x.last_sample[row.id] = token;
    const bool poisoned = s.tokens[0] == poison_;
    result.rows.push_back({row.id, poisoned ? std::vector<int32_t>{} : std::vector<int32_t>{token},
                           poisoned ? plan::RowError::kNotFinite : plan::RowError::kNone});
  }

  std::vector<TimeNs> ended;
  for (int stage = 0; stage < options_.pp; ++stage) {
    const DurationNs takes = Between(times_.step_min, times_.step_max);
    done = std::max(done, x.free_at[stage]) + takes;
    x.free_at[stage] = done;
    busy_[stage] += takes;
    ended.push_back(done);
  }
  for (const plan::RowResult& row : result.rows) x.sampled_at[row.id] = done;
  const size_t trace = plans_.size();
  plans_.push_back(
      {plan.stamp.epoch, plan.stamp.step, plan.cohort, plan.TokenCount(), decode_rows, bytes_hash, now_, done, 0});
  const std::string error = std::exchange(fail_step_, {});
  if (!error.empty()) x.dead = true;
  for (const auto& [id, agent] : agents_) {
    if (!agent->alive || agent->epoch != x.epoch) continue;
    for (int32_t rank : agent->ranks) {
      plan::StepResult mine = result;
      mine.rank = rank;
      const bool samples = rank == (options_.pp - 1) * options_.tp;
      if (!samples) mine.rows.clear();
      if (rank == 0) mine.error = error;
      if (x.dead && error.empty()) continue;
      std::function<bool()> note;
      if (samples) note = [this, trace, ids] { return Answered(trace, ids), true; };
      Say(id, ended[rank / options_.tp], StepAnswered{id, mine}, note);
      if (repeat_answers_) Say(id, ended[rank / options_.tp], StepAnswered{id, mine});
    }
  }
}

void VirtualCluster::Answered(size_t trace, const std::vector<plan::SequenceId>& ids) {
  plans_[trace].answered = now_;
  if (executor_->epoch != plans_[trace].epoch) return;
  --in_flight_;
  for (plan::SequenceId id : ids) --unanswered_[id];
}

void VirtualCluster::On(const EmitTokens& e) {
  Answer& a = answers_.at(e.id);
  if (a.finishes > 0) Problem(absl::StrCat("tokens of request ", e.id, " after its end"));
  a.tokens.insert(a.tokens.end(), e.tokens.begin(), e.tokens.end());
}

void VirtualCluster::On(const FinishRequest& e) {
  Answer& a = answers_.at(e.id);
  if (++a.finishes > 1) Problem(absl::StrCat("request ", e.id, " ended twice"));
  a.finish = e;
  a.finished_at = now_;
  --open_;
}

void VirtualCluster::On(const SetTimer& e) {
  timer_ = e.at;
  At(std::max(now_, e.at) + times_.timer_late, [this, at = e.at] {
    if (timer_ != at) return;
    timer_ = 0;
    Post(TimerFired{});
  });
}

bool VirtualCluster::Logged(const std::string& part) const {
  return std::any_of(log_.begin(), log_.end(),
                     [&](const LogLine& line) { return line.text.find(part) != std::string::npos; });
}

}  // namespace shoal::core
