#include "tests/core/virtual_cluster.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/rng.h"
#include "common/plan/wire.h"

namespace shoal::core {
namespace {

constexpr int32_t kGarbage = -7;
constexpr TimeNs kNever = std::numeric_limits<TimeNs>::max();

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

// The cache of one rank. It belongs to its agent, and outlives groups.
struct VirtualCluster::Cache {
  uint64_t id;
  std::vector<int32_t> tokens;  // [blocks * block_size]; kGarbage: never written, or by a step that did not end
};

struct VirtualCluster::Agent {
  AgentSpec spec;
  uint64_t incarnation = 1;
  bool alive = true, frozen = false;
  uint64_t epoch = 0;
  TimeNs last_said = 0;
  std::vector<int32_t> ranks;
  bool publishes = false;                            // its ranks need addresses
  uint64_t loading = 0;                              // epoch of the load in progress; 0: none
  std::map<int32_t, std::shared_ptr<Cache>> caches;  // by rank
  std::vector<std::function<void()>> held;           // what it would have said or heard while frozen
};

// One mirror stands for all ranks: they run the same plans in the same order. Each has its own cache.
struct VirtualCluster::Executor {
  explicit Executor(uint64_t e, const plan::MirrorLimits& limits, int pp, TimeNs now)
      : epoch(e), mirror(limits), free_at(pp, now), ends(pp) {}

  void Write(int32_t slot, int32_t token) {
    for (auto& [rank, cache] : caches) cache->tokens[slot] = token;
  }
  // The token that all ranks have there; nothing when they differ.
  std::optional<int32_t> Read(int32_t slot) const {
    const int32_t token = caches.begin()->second->tokens[slot];
    for (const auto& [rank, cache] : caches) {
      if (cache->tokens[slot] != token) return std::nullopt;
    }
    return token;
  }
  // Ends all ranks. Steps that had not ended are not answered, and what they wrote is as it may be: on some ranks it is
  // there, on others not.
  void Die(TimeNs at, uint64_t seed) {
    if (std::exchange(dead, true)) return;
    died_at = at;
    for (const Step& step : steps) {
      if (step.ends <= at) continue;
      for (int32_t slot : step.slots) {
        for (auto& [rank, cache] : caches) {
          if (RandomBits(seed, epoch, static_cast<uint64_t>(slot) * 64 + static_cast<uint64_t>(rank)) % 2 == 0) {
            cache->tokens[slot] = kGarbage;
          }
        }
      }
    }
  }

  uint64_t epoch;
  plan::PlanMirror mirror;
  std::map<int32_t, std::shared_ptr<Cache>> caches;  // by rank
  struct Step {
    TimeNs ends;
    std::vector<int32_t> slots;  // that it wrote
  };
  std::deque<Step> steps;  // of late
  std::map<plan::SequenceId, int32_t> last_sample;
  std::vector<TimeNs> free_at;  // [pp]
  std::map<plan::SequenceId, TimeNs> sampled_at;
  bool dead = false;  // a rank is gone: no plan is executed
  TimeNs died_at = 0;
  std::vector<std::vector<TimeNs>> ends;  // [pp] of each plan
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
    beat.ranks = Statuses(agent);
    if (!agent.frozen && now_ >= deaf_until_) Post(HeartbeatReceived{beat});
    Beat(id, incarnation);
  });
}

std::vector<plan::RankStatus> VirtualCluster::Statuses(const Agent& agent) const {
  std::vector<plan::RankStatus> statuses;
  if (executor_ == nullptr || executor_->epoch != agent.epoch) return statuses;
  for (const int32_t rank : agent.ranks) {
    if (const auto shown = shown_.find(rank); shown != shown_.end()) {
      statuses.push_back(shown->second);
      continue;
    }
    const std::vector<TimeNs>& ends = executor_->ends[rank / options_.tp];
    plan::RankStatus& status = statuses.emplace_back();
    status.rank = rank;
    status.pid = 4711 + rank;
    status.step = static_cast<uint64_t>(std::upper_bound(ends.begin(), ends.end(), now_) - ends.begin());
    status.progress = 10 * status.step;
    status.state = status.step < ends.size() ? plan::RankState::kRunning : plan::RankState::kReady;
  }
  return statuses;
}

void VirtualCluster::Hang() { executor_->dead = true; }

void VirtualCluster::Say(const std::string& id, TimeNs at, const Event& event, std::function<bool()> before) {
  std::shared_ptr<Agent> agent = agents_.at(id);
  agent->last_said = std::max(agent->last_said, at + Between(times_.net_min, times_.net_max));
  // A frozen agent keeps what it says: that must not keep the agent.
  const auto deliver = [this, speaker = std::weak_ptr(agent), event, before] {
    const auto living = speaker.lock();
    if (living == nullptr || !living->alive) return;
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
    executor_->Die(now_, seed_);
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
    if (executor_ != nullptr) executor_->Die(now_, seed_);
    executor_ = std::make_shared<Executor>(e.load.epoch, e.load.limits, options_.pp, now_);
    shown_.clear();
    unanswered_.clear();
    in_flight_ = 0;
  }
  for (int32_t rank : agent.ranks) {
    std::shared_ptr<Cache>& cache = agent.caches[rank];
    const auto slots = static_cast<size_t>(e.load.limits.blocks) * e.load.limits.block_size;
    if (cache == nullptr || cache->tokens.size() != slots) {
      cache = std::make_shared<Cache>(Cache{++caches_made_, std::vector<int32_t>(slots, kGarbage)});
    }
    executor_->caches[rank] = cache;
  }
  Say(e.agent, now_, LoadAdvanced{e.load.epoch, {e.agent, 500, 1000, false, false, 500, {}, {}}});
  if (!agent.publishes) return Loaded(e.agent, e.load.epoch);
  plan::LoadProgress published{e.agent, 1000, 1000, false, false, 1000, {}, {}};
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
  plan::LoadProgress done{id, 1000, 1000, true, false, 1000, {}, {}};
  for (const int32_t rank : agent.ranks) done.caches.push_back({rank, agent.caches.at(rank)->id});
  Say(id, now_ + Between(0, 5 * kMillisecond), LoadAdvanced{epoch, done}, [&agent, epoch] {
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
  if (executor_ != nullptr && executor_->epoch < e.epoch) executor_->Die(now_, seed_);
}

void VirtualCluster::On(const SendPlan& e) {
  absl::StatusOr<plan::StepPlan> plan = plan::DecodePlan(e.bytes);
  if (!plan.ok()) return Problem(plan.status().ToString());
  if (!(plan->stamp == e.stamp)) Problem("stamp of frame and plan differ");
  if (executor_ == nullptr || executor_->dead || plan->stamp.epoch != executor_->epoch) return;
  for (const plan::AgentId& id : e.agents) {
    if (!agents_.at(id)->alive) executor_->Die(now_, seed_);
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
  Executor::Step written;
  for (const plan::Row& row : plan.rows) {
    const plan::MirroredSequence& s = *x.mirror.Find(row.id);
    const bool last = row.source == plan::TokenSource::kLastSample;
    if (last) done = std::max(done, x.sampled_at.at(row.id));  // stage 0 waits for the token
    decode_rows += last ? 1 : 0;
    for (int32_t p = row.position; p < row.position + row.count; ++p) {
      written.slots.push_back(s.blocks[p / bs] * bs + p % bs);
      x.Write(written.slots.back(), last ? x.last_sample.at(row.id) : s.tokens[p]);
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
    for (int32_t p = 0; p < end; ++p) {
      const std::optional<int32_t> token = x.Read(s.blocks[p / bs] * bs + p % bs);
      if (!token.has_value()) Problem(absl::StrCat("ranks differ at position ", p, " of sequence ", row.id));
      hash = Fold(hash, static_cast<uint64_t>(token.value_or(kGarbage)));
    }
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
    x.ends[stage].push_back(done);
  }
  for (const plan::RowResult& row : result.rows) x.sampled_at[row.id] = done;
  while (!x.steps.empty() && x.steps.front().ends <= now_) x.steps.pop_front();
  const std::string error = std::exchange(fail_step_, {});
  written.ends = error.empty() ? done : kNever;
  x.steps.push_back(std::move(written));
  const size_t trace = plans_.size();
  plans_.push_back(
      {plan.stamp.epoch, plan.stamp.step, plan.cohort, plan.TokenCount(), decode_rows, bytes_hash, now_, done, 0});
  if (!error.empty()) x.Die(done, seed_);
  result.error = error;
  SayResults(result, ended, [this, trace, ids] { Answered(trace, ids); });
}

void VirtualCluster::SayResults(const plan::StepResult& result, const std::vector<TimeNs>& ended,
                                const std::function<void()>& sampled) {
  for (const auto& [id, agent] : agents_) {
    if (!agent->alive || agent->epoch != executor_->epoch) continue;
    for (int32_t rank : agent->ranks) {
      if (!result.error.empty() && rank != 0) continue;  // the others wait for it
      plan::StepResult mine = result;
      mine.rank = rank;
      const auto own = own_times_.find(rank);
      mine.times.started = now_;
      mine.times.ended = now_ + (own != own_times_.end() ? own->second : kMillisecond);
      const bool samples = rank == (options_.pp - 1) * options_.tp;
      if (!samples || !result.error.empty()) mine.rows.clear();
      const TimeNs at = ended[rank / options_.tp];
      const auto lives = [executor = executor_, at] { return !executor->dead || executor->died_at >= at; };
      Say(id, at, StepAnswered{id, mine}, [lives, samples, sampled] {
        if (!lives()) return false;
        if (samples) sampled();
        return true;
      });
      if (repeat_answers_) Say(id, at, StepAnswered{id, mine}, lives);
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
