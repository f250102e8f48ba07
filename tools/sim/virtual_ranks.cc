// Tested by: tests/sim/cluster_test.cc
#include "tools/sim/virtual_ranks.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "tools/sim/null_model.h"

namespace shoal::sim {

absl::StatusOr<std::shared_ptr<const ResolvedPlan>> Resolve(const plan::StepPlan& plan, plan::PlanMirror& mirror) {
  auto resolved = std::make_shared<ResolvedPlan>();
  resolved->stamp = plan.stamp;
  resolved->checksum = plan.checksum;
  for (const plan::Row& row : plan.rows) {
    const plan::MirroredSequence* before = mirror.Find(row.id);
    resolved->rows.push_back({row, {}, {}, {}, 0, 0, {}, before == nullptr ? 0 : before->last_sample_step});
  }
  SHOAL_RETURN_IF_ERROR(mirror.Apply(plan, /*check_digest=*/true));
  const int32_t bs = resolved->block_size = mirror.limits().block_size;
  resolved->copies = plan.copies;
  for (ResolvedPlan::Row& r : resolved->rows) {
    const plan::MirroredSequence& s = *mirror.Find(r.row.id);
    const int32_t end = r.row.position + r.row.count;
    r.sampling = s.sampling;
    r.first_token = s.tokens[0];
    r.prompt_tokens = s.prompt_tokens;
    for (int32_t p = 0; p < end; ++p) r.slots.push_back(s.blocks[p / bs] * bs + p % bs);
    if (r.row.source == plan::TokenSource::kLastSample) continue;
    r.tokens.assign(s.tokens.begin() + r.row.position, s.tokens.begin() + end);
    if (!plan::TellsLogprobs(r.row.output)) continue;
    const int32_t last = plan::Samples(r.row.output) ? end : end + 1;
    r.known.assign(s.tokens.begin() + r.row.position + 1, s.tokens.begin() + last);
  }
  return resolved;
}

VirtualRanks::VirtualRanks(World* world, int32_t tp, int32_t pp, const StepTimes& times, RankFaults* faults,
                           Hooks hooks)
    : world_(world), tp_(tp), pp_(pp), times_(times), faults_(faults), hooks_(std::move(hooks)) {
  ranks_.resize(static_cast<size_t>(tp) * pp);
  stages_.resize(pp);
}

void VirtualRanks::Attach(int32_t rank, Rank what) {
  Slot& slot = ranks_[rank];
  if (slot.state != State::kAbsent) return world_->Problem(absl::StrCat("rank ", rank, " started twice in one epoch"));
  slot.rank = std::move(what);
  slot.state = State::kRuns;
}

void VirtualRanks::Arrive(int32_t rank, const std::shared_ptr<const ResolvedPlan>& plan) {
  Slot& slot = ranks_[rank];
  if (slot.state != State::kRuns) return;
  slot.received = plan->stamp.step;
  if (!Knows(plan->stamp.step)) plans_[plan->stamp.step].plan = plan;
  Run(rank / tp_);
}

bool VirtualRanks::MayRun(int stage, const ResolvedPlan& plan) const {
  const uint64_t step = plan.stamp.step;
  for (int32_t r = stage * tp_; r < (stage + 1) * tp_; ++r) {
    if (ranks_[r].state != State::kRuns || ranks_[r].frozen || ranks_[r].received < step) return false;
  }
  if (stage > 0) return stages_[stage - 1].done >= step;
  return std::all_of(plan.rows.begin(), plan.rows.end(), [&](const ResolvedPlan::Row& row) {
    return !row.tokens.empty() || stages_.back().done >= row.sampled_in;
  });
}

void VirtualRanks::Run(int stage) {
  Stage& s = stages_[stage];
  const auto it = plans_.find(s.done + 1);
  if (s.busy || s.broken || it == plans_.end() || !MayRun(stage, *it->second.plan)) return;
  Step& step = it->second;
  if (stage == 0) {
    for (const ResolvedPlan::Row& row : step.plan->rows) {
      step.inputs.push_back(row.tokens);
      if (!row.tokens.empty()) continue;
      const Sampled& last = samples_[row.row.id];
      if (last.step != row.sampled_in) world_->Problem(absl::StrCat("sequence ", row.row.id, ": an older sample"));
      step.inputs.back() = {last.token};
    }
    step.hidden.assign(step.plan->rows.size(), {});
    s.error = std::exchange(faults_->fail_step, {});
  }
  s.busy = true;
  const DurationNs takes = world_->Between(times_.min, times_.max);
  for (int32_t r = stage * tp_; r < (stage + 1) * tp_; ++r) ranks_[r].started = world_->now();
  hooks_.on_start(stage, takes);
  const auto self = shared_from_this();
  world_->After(takes, [self, stage] { self->End(stage); });
  if (stage == 0) Kills(*step.plan, takes);
  if (stage == 0 && Deadly(*step.plan)) {
    const int32_t rank = static_cast<int32_t>(world_->Draw() % static_cast<uint64_t>(tp_));
    world_->After(takes / 2, [self, rank] {
      const auto die = self->ranks_[rank].rank.die;
      if (self->lives(rank)) die("killed by signal 11");
    });
  }
}

bool VirtualRanks::Deadly(const ResolvedPlan& plan) const {
  return std::any_of(plan.rows.begin(), plan.rows.end(),
                     [this](const ResolvedPlan::Row& row) { return row.first_token == faults_->deadly; });
}

void VirtualRanks::Kills(const ResolvedPlan& plan, DurationNs takes) {
  if (faults_->kills == nullptr) return;
  std::vector<int32_t> first_tokens;
  for (const ResolvedPlan::Row& row : plan.rows) first_tokens.push_back(row.first_token);
  if (!faults_->kills(first_tokens)) return;
  world_->After(std::max<DurationNs>(0, takes - 1), [self = shared_from_this(), cause = faults_->kills_cause] {
    const auto die = self->ranks_[0].rank.die;
    if (self->lives(0)) die(cause);
  });
}

void VirtualRanks::End(int stage) {
  Stage& s = stages_[stage];
  if (s.broken) return;
  for (int32_t r = stage * tp_; r < (stage + 1) * tp_; ++r) s.overdue = s.overdue || ranks_[r].frozen;
  if (s.overdue) return;
  Step& step = plans_.at(s.done + 1);
  const plan::Stamp stamp = step.plan->stamp;
  const bool checksum = step.plan->checksum;
  plan::StepResult result;
  result.stamp = stamp;
  if (!s.error.empty()) {
    Interrupt(stage);
    result.error = s.error;
    return ranks_[0].rank.answer(result);
  }
  Compute(stage, step);
  s.busy = false;
  s.done = stamp.step;
  const bool last = stage == pp_ - 1;
  std::vector<plan::RowResult> rows;
  if (last) rows = Sample(step);
  if (last) plans_.erase(stamp.step);
  if (last) hooks_.on_end(stamp.step);
  for (int32_t r = stage * tp_; r < (stage + 1) * tp_; ++r) {
    result.rank = r;
    result.rows = r == (pp_ - 1) * tp_ ? rows : std::vector<plan::RowResult>();
    const auto own = faults_->own_times.find(r);
    result.times.started = ranks_[r].started;
    result.times.ended = ranks_[r].started + (own != faults_->own_times.end() ? own->second : kMillisecond);
    if (checksum) result.checksum = StateChecksum(stamp.step, stage);
    if (checksum && r == faults_->other_states) result.checksum ^= 1;
    ranks_[r].rank.answer(result);
  }
  Run(stage);
  if (!last) Run(stage + 1);
  if (last && stage > 0) Run(0);
}

// Writes the step's tokens to the caches of the stage and reads all of them back.
void VirtualRanks::Compute(int stage, Step& step) {
  const std::vector<ResolvedPlan::Row>& rows = step.plan->rows;
  Copy(stage, *step.plan, /*whole=*/true);
  for (size_t i = 0; i < rows.size(); ++i) {
    for (int32_t k = 0; k < rows[i].row.count; ++k) {
      const int32_t slot = rows[i].slots[rows[i].row.position + k];
      for (int32_t r = stage * tp_; r < (stage + 1) * tp_; ++r) ranks_[r].rank.cache->tokens[slot] = step.inputs[i][k];
    }
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].row.output == plan::RowOutput::kNone) continue;
    const std::vector<uint64_t> hidden = ReadBack(stage, rows[i]);
    if (stage > 0 && hidden != step.hidden[i]) {
      world_->Problem(absl::StrCat("stages differ in the KV of sequence ", rows[i].row.id));
    }
    step.hidden[i] = hidden;
  }
}

// `whole`: else it was interrupted, and of each token it is not known whether it was copied.
void VirtualRanks::Copy(int stage, const ResolvedPlan& plan, bool whole) {
  for (const plan::BlockCopy& copy : plan.copies) {
    for (int32_t k = 0; k < plan.block_size; ++k) {
      for (int32_t r = stage * tp_; r < (stage + 1) * tp_; ++r) {
        std::vector<int32_t>& tokens = ranks_[r].rank.cache->tokens;
        const bool done = whole || world_->Draw() % 2 == 0;
        if (done) tokens[copy.dst * plan.block_size + k] = tokens[copy.src * plan.block_size + k];
      }
    }
  }
}

// For each of the row's tokens, what the sequence up to and with it folds to.
std::vector<uint64_t> VirtualRanks::ReadBack(int stage, const ResolvedPlan::Row& row) {
  std::vector<uint64_t> hashes;
  uint64_t hash = 0;
  for (size_t p = 0; p < row.slots.size(); ++p) {
    const int32_t slot = row.slots[p];
    int32_t token = ranks_[stage * tp_].rank.cache->tokens[slot];
    for (int32_t r = stage * tp_ + 1; r < (stage + 1) * tp_; ++r) {
      if (ranks_[r].rank.cache->tokens[slot] == token) continue;
      world_->Problem(absl::StrCat("ranks differ at position ", p, " of sequence ", row.row.id));
      token = kGarbage;
    }
    hash = Fold(hash, static_cast<uint64_t>(token));
    if (static_cast<int32_t>(p) >= row.row.position) hashes.push_back(hash);
  }
  return hashes;
}

std::vector<plan::RowResult> VirtualRanks::Sample(const Step& step) {
  std::vector<plan::RowResult> out;
  for (size_t i = 0; i < step.plan->rows.size(); ++i) {
    const ResolvedPlan::Row& row = step.plan->rows[i];
    if (row.row.output == plan::RowOutput::kNone) continue;
    plan::RowResult& result = out.emplace_back();
    result.id = row.row.id;
    for (size_t k = 0; k < row.known.size(); ++k) {
      result.logprobs.push_back(Logprobs(step.hidden[i][k], row.known[k], row.sampling.prompt_logprobs));
    }
    if (plan::Samples(row.row.output)) {
      const uint64_t hidden = step.hidden[i].back();
      const int32_t right = NextToken(hidden, row.sampling, row.row.position + row.row.count, row.prompt_tokens);
      result.tokens = {(right + (faults_->wrongly ? 1 : 0)) % kVocab};
      samples_[row.row.id] = {step.plan->stamp.step, result.tokens[0]};
      if (row.sampling.logprobs >= 0) {
        result.logprobs.push_back(Logprobs(hidden, result.tokens[0], row.sampling.logprobs));
      }
    }
    if (row.first_token == faults_->not_finite) result = {row.row.id, {}, plan::RowError::kNotFinite, {}};
  }
  return out;
}

// The step that the stage was in never ends. What it wrote is as it may be: there, garbage, or not yet there.
void VirtualRanks::Interrupt(int stage) {
  Stage& s = stages_[stage];
  s.broken = true;
  if (!s.busy) return;
  const Step& step = plans_.at(s.done + 1);
  Copy(stage, *step.plan, /*whole=*/false);
  for (size_t i = 0; i < step.plan->rows.size(); ++i) {
    const ResolvedPlan::Row& row = step.plan->rows[i];
    for (int32_t k = 0; k < row.row.count; ++k) {
      for (int32_t r = stage * tp_; r < (stage + 1) * tp_; ++r) {
        int32_t& token = ranks_[r].rank.cache->tokens[row.slots[row.row.position + k]];
        const uint64_t luck = world_->Draw() % 3;
        if (luck == 0) token = kGarbage;
        if (luck == 1) token = step.inputs[i][k];
      }
    }
  }
}

void VirtualRanks::Kill(int32_t rank) {
  Slot& slot = ranks_[rank];
  const bool ran = std::exchange(slot.state, State::kDead) == State::kRuns;
  if (ran && !stages_[rank / tp_].broken) Interrupt(rank / tp_);
  slot.rank.answer = nullptr;  // its agent's group and this own each other
  slot.rank.die = nullptr;
}

void VirtualRanks::Hang() {
  for (int stage = 0; stage < pp_; ++stage) {
    if (!stages_[stage].broken) Interrupt(stage);
  }
}

// The first rank without which the stage cannot begin: one of its own that has not got the plan, or one of the stage
// before it, which is not done; for the first stage, the one that samples.
int32_t VirtualRanks::WaitingFor(int32_t rank) const {
  const int stage = rank / tp_;
  const uint64_t next = stages_[stage].done + 1;
  for (int32_t r = stage * tp_; r < (stage + 1) * tp_; ++r) {
    if (ranks_[r].received < next || ranks_[r].state != State::kRuns) return r;
  }
  if (stage > 0) return stages_[stage - 1].done < next ? (stage - 1) * tp_ : -1;
  return pp_ > 1 ? (pp_ - 1) * tp_ : -1;
}

plan::RankStatus VirtualRanks::Status(int32_t rank) const {
  if (const auto shown = shown_.find(rank); shown != shown_.end()) return shown->second;
  const Stage& stage = stages_[rank / tp_];
  plan::RankStatus status;
  status.rank = rank;
  status.pid = 4711 + rank;
  status.step = stage.done;
  status.progress = 10 * status.step;
  status.state = ranks_[rank].state == State::kDead   ? plan::RankState::kDead
                 : ranks_[rank].received > stage.done ? plan::RankState::kRunning
                                                      : plan::RankState::kReady;
  if (status.state != plan::RankState::kRunning || stage.busy) return status;
  if (const int32_t other = WaitingFor(rank); other >= 0 && other != rank) status.waiting_for = other;
  return status;
}

void VirtualRanks::Freeze(int32_t rank, bool frozen) {
  ranks_[rank].frozen = frozen;
  if (frozen) return;
  const int stage = rank / tp_;
  for (int32_t r = stage * tp_; r < (stage + 1) * tp_; ++r) {
    if (ranks_[r].frozen) return;
  }
  if (std::exchange(stages_[stage].overdue, false)) return End(stage);
  Run(stage);
}

}  // namespace shoal::sim
