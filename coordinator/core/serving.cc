#include "coordinator/core/serving.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace shoal::core {
namespace {

// When there is no group: about as long as a rank takes to come back.
constexpr int32_t kRetryWithoutGroupS = 5;

// A request is named by each of its sequences; the order of the first is kept.
std::vector<Request*> OncePerRequest(std::vector<Request*> requests) {
  absl::flat_hash_set<Request*> seen;
  std::erase_if(requests, [&](Request* r) { return !seen.insert(r).second; });
  return requests;
}

}  // namespace

Serving::Group::Group(ServingGroup g)
    : info(std::move(g)),
      pool(info.limits.blocks),
      builder(info.stamp, info.limits),
      flight(info.ranks, info.sampling_rank),
      checksums(info.ranks / info.stages, info.stages, info.checksum_interval) {}

void Serving::Arrive(GenerateRequest request, const absl::Status& admit_error, TimeNs now, EffectList& fx) {
  SHOAL_CHECK(!requests_.contains(request.id));
  if (!admit_error.ok()) return Refuse(request, admit_error, kRetryWithoutGroupS, now, fx);
  if (absl::Status s = CheckRequest(request, limits_); !s.ok()) return Refuse(request, s, 0, now, fx);
  // Those that find a place with the next plan do not queue.
  const int32_t places = std::max(0, limits_.max_sequences - running());
  if (waiting() + request.n > max_queued_ + places) {
    return Refuse(request, absl::ResourceExhaustedError(absl::StrCat(waiting(), " requests are waiting already")),
                  rate_.RetryAfter(waiting(), now), now, fx);
  }
  if (canary_ != nullptr && !canary_first_) DropCanary();
  auto owned = std::make_unique<Request>();
  Request& r = *owned;
  r.id = request.id;
  r.sampling = std::move(request.sampling);
  r.prompt_tokens = r.stats.prompt_tokens = static_cast<int32_t>(request.prompt.size());
  r.max_tokens = request.max_tokens;
  r.stop_tokens = std::move(request.stop_tokens);
  r.stats.arrived = request.arrived;
  r.sequences.resize(static_cast<size_t>(request.n));
  for (Sequence& s : r.sequences) {
    s.request = &r;
    s.choice = static_cast<int32_t>(&s - r.sequences.data());
    s.order = next_order_++;
    s.tokens = request.prompt;
    waiting_.emplace(s.order, &s);
  }
  requests_.emplace(RequestId{r.id}, std::move(owned));
}

void Serving::Refuse(const GenerateRequest& request, absl::Status error, int32_t retry_after_s, TimeNs now,
                     EffectList& fx) {
  RequestStats stats;
  stats.prompt_tokens = static_cast<int32_t>(request.prompt.size());
  stats.arrived = request.arrived;
  stats.finished = now;
  fx.client.push_back(FinishRequest{request.id, FinishReason::kError, std::move(error), retry_after_s, stats});
}

void Serving::Cancel(RequestId id, CancelCause cause, int32_t choice, TimeNs now, EffectList& fx) {
  auto it = requests_.find(id);
  if (it == requests_.end() || choice >= static_cast<int32_t>(it->second->sequences.size())) return;
  const auto reason = cause == CancelCause::kStopString ? FinishReason::kStop : FinishReason::kCancelled;
  if (choice >= 0) {
    Sequence& s = it->second->sequences[static_cast<size_t>(choice)];
    if (!s.ended) FinishChoice(s, reason, now, fx);
    return;
  }
  Finish(*it->second, reason, absl::OkStatus(), 0, now, fx);
}

void Serving::EndAll(const absl::Status& error, int32_t retry_after_s, TimeNs now, EffectList& fx) {
  std::vector<RequestId> ids;
  for (const auto& [id, request] : requests_) ids.push_back(id);
  std::sort(ids.begin(), ids.end());  // the map's order differs from run to run
  for (RequestId id : ids) Finish(*requests_[id], FinishReason::kError, error, retry_after_s, now, fx);
}

void Serving::Finish(Request& request, FinishReason reason, absl::Status error, int32_t retry_after_s, TimeNs now,
                     EffectList& fx) {
  for (Sequence& s : request.sequences) TakeOff(s);
  request.stats.finished = now;
  if (reason == FinishReason::kStop || reason == FinishReason::kLength) rate_.Finished(now);
  fx.client.push_back(FinishRequest{request.id, reason, std::move(error), retry_after_s, request.stats});
  requests_.erase(RequestId{request.id});
}

void Serving::StopRunning(Sequence& s) {
  group_->pool.Release(s.blocks);
  if (s.started) group_->builder.End(s.id);
  s.blocks.clear();
  s.kv = 0;
  s.running = false;
  running_.erase(std::find(running_.begin(), running_.end(), &s));
}

void Serving::Forget(Sequence& s) {
  if (s.id != 0) by_id_.erase(s.id);
  s.id = 0;
  s.unanswered = 0;
}

void Serving::Wait(Sequence& s) {
  s.running = false;
  waiting_.emplace(s.order, &s);
}

void Serving::GroupReady(ServingGroup group, bool kv_kept, TimeNs now, EffectList& fx) {
  SHOAL_CHECK(group_ == nullptr);
  limits_ = group.limits;
  for (auto& [id, request] : requests_) request->stats.reforms += group.reformed ? 1 : 0;
  group_ = std::make_unique<Group>(std::move(group));
  for (const auto& [order, s] : waiting_) {
    if (kv_kept) break;
    s->kv = 0;
    s->blocks.clear();
  }
  std::vector<Request*> too_long;
  for (const auto& [order, s] : waiting_) {
    if (s->request->prompt_tokens + s->request->max_tokens > limits_.max_model_len) too_long.push_back(s->request);
  }
  for (Request* r : OncePerRequest(std::move(too_long))) {
    Finish(*r, FinishReason::kError,
           absl::UnavailableError(absl::StrCat("the group came back with room for ", limits_.max_model_len, " tokens")),
           0, now, fx);
  }
  Resume();
}

// What ran when the last group was lost runs again, from the first token whose KV is not certain.
void Serving::Resume() {
  // A start carries all tokens: together they stay far below the size of the ring that plans go through.
  constexpr int64_t kMaxTokens = 1 << 20;
  int64_t tokens = 0;
  std::vector<Sequence*> kept;
  for (const auto& [order, s] : waiting_) {
    if (s->kv == 0) continue;
    tokens += static_cast<int64_t>(s->tokens.size());
    if (tokens <= kMaxTokens) {
      kept.push_back(s);
    } else {
      s->kv = 0;
    }
  }
  for (const auto& [order, s] : waiting_) {
    if (s->kv == 0) s->blocks.clear();
  }
  for (Sequence* s : kept) {
    const auto need = static_cast<size_t>(plan::BlocksFor(static_cast<int64_t>(s->tokens.size()), limits_.block_size));
    s->blocks.resize(std::min(s->blocks.size(), need));
    group_->pool.Take(s->blocks, OneOfMany(*s) ? PromptBlocks(*s->request) : 0);
  }
  int32_t cohort = 0;
  for (Sequence* s : kept) {
    const int32_t need = plan::BlocksFor(static_cast<int64_t>(s->tokens.size()), limits_.block_size);
    if (!group_->pool.Allocate(need - static_cast<int32_t>(s->blocks.size()), &s->blocks)) {
      group_->pool.Release(s->blocks);
      s->blocks.clear();
      s->kv = 0;
      continue;
    }
    PutOnRanks(*s, cohort++ % group_->info.stages);
    s->computed = s->kv;
    ++resumed_;
  }
}

void Serving::GroupLost(bool blamed, const std::string& reason, TimeNs now, EffectList& fx) {
  SHOAL_CHECK(group_ != nullptr);
  if (canary_ != nullptr) DropCanary();
  for (Sequence* s : running_) Wait(*s);
  running_.clear();
  std::vector<Request*> aboard;
  for (const auto& [order, s] : waiting_) {
    if (s->unanswered > 0) aboard.push_back(s->request);
    s->id = 0;
    s->unanswered = 0;
  }
  by_id_.clear();
  checksums_agreed_ += group_->checksums.agreed();
  group_.reset();
  if (blamed) BlameAll(OncePerRequest(std::move(aboard)), reason, now, fx);
}

bool Serving::Answered(const plan::StepResult& result, std::string* why, TimeNs now, EffectList& fx) {
  Group& group = *group_;
  const Flight::Verdict verdict = group.flight.Answer(result, limits_.vocab, &answered_rows_, why);
  if (verdict == Flight::Verdict::kBroken) return false;
  if (verdict == Flight::Verdict::kStale) {
    Stale();
  } else {
    ++answers_;
  }
  if (verdict != Flight::Verdict::kStale && group.checksums.waits()) {
    mismatch_ = group.checksums.Note(result.rank, result.stamp.step, result.checksum);
    if (mismatch_.has_value()) {
      for (const int32_t rank : mismatch_->ranks) ++mismatches_[rank];
      return true;
    }
  }
  if (verdict != Flight::Verdict::kTokens) return true;
  size_t next_answer = 0;
  for (const Flight::Row& row : answered_rows_) {
    Settle(row, row.sample || row.scored > 0 ? &result.rows[next_answer++] : nullptr, now, fx);
  }
  return true;
}

void Serving::Settle(const Flight::Row& row, const plan::RowResult* answer, TimeNs now, EffectList& fx) {
  auto it = by_id_.find(row.id);
  if (it == by_id_.end()) return;  // it has ended since: overshoot
  Sequence& s = *it->second;
  --s.unanswered;
  if (s.running) {
    if (row.end > s.kv_before) GotOn(&s.request->suspicion);
    s.kv = row.end;
    s.kv_before = std::max(s.kv_before, s.kv);
  }
  if (!s.running && s.unanswered == 0) Forget(s);
  const bool finite = answer == nullptr || answer->error == plan::RowError::kNone;
  if (finite && s.request != canary_.get()) group_->proven = true;
  if (answer != nullptr) Accept(s, row, *answer, now, fx);
}

void Serving::Accept(Sequence& s, const Flight::Row& row, const plan::RowResult& answer, TimeNs now, EffectList& fx) {
  Request& r = *s.request;
  if (&r == canary_.get()) return AcceptCanary(answer);
  if (answer.error != plan::RowError::kNone) {
    not_finite_ = true;
    return Finish(r, FinishReason::kError, absl::InternalError("the model's output is not a number"), 0, now, fx);
  }
  const auto prompt_end = answer.logprobs.begin() + row.scored;
  if (row.scored > 0) TakePromptLogprobs(r, {answer.logprobs.begin(), prompt_end}, fx);
  if (row.sample) AcceptToken(s, answer.tokens[0], {prompt_end, answer.logprobs.end()}, now, fx);
}

void Serving::AcceptToken(Sequence& s, int32_t token, std::vector<plan::TokenLogprobs> logprobs, TimeNs now,
                          EffectList& fx) {
  Request& r = *s.request;
  GotOn(&r.suspicion);
  if (r.stats.first_token == 0) r.stats.first_token = now;
  if (std::find(r.stop_tokens.begin(), r.stop_tokens.end(), token) != r.stop_tokens.end()) {
    return FinishChoice(s, FinishReason::kStop, now, fx);
  }
  s.tokens.push_back(token);
  ++r.stats.output_tokens;
  ++output_tokens_;
  fx.client.push_back(EmitTokens{r.id, {token}, r.stats.preemptions, r.stats.reforms, s.choice, std::move(logprobs)});
  const auto generated = static_cast<int32_t>(s.tokens.size()) - r.prompt_tokens;
  if (generated == r.max_tokens) FinishChoice(s, FinishReason::kLength, now, fx);
}

std::vector<PlanNote> Serving::RecentPlans() const {
  std::vector<PlanNote> notes;
  if (group_ == nullptr) return notes;
  const Flight& flight = group_->flight;
  const uint64_t answered = flight.answered(flight.sampling_rank());
  for (const Flight::Note& plan : flight.recent()) {
    notes.push_back({plan.step, plan.rows, plan.tokens, plan.step <= answered});
  }
  return notes;
}

void Serving::Fill(ClusterState* state) const {
  for (ClusterState::Rank& rank : state->ranks) {
    if (group_ != nullptr) rank.answered = group_->flight.answered(rank.rank);
  }
  state->running = running();
  state->waiting = waiting();
  state->canary_runs = canary_runs();
  state->kv_blocks = group_ ? group_->pool.size() : 0;
  state->kv_blocks_free = group_ ? group_->pool.free() : 0;
  state->block_size = limits_.block_size;
  state->max_model_len = limits_.max_model_len;
  state->steps = steps_;
  state->preemptions = preemptions_;
  state->prompt_tokens = prompt_tokens_;
  state->output_tokens = output_tokens_;
  state->answers = answers_;
  state->stale[static_cast<size_t>(plan::StalePlace::kAnswer)] = stale_answers_;
  state->resumed = resumed_;
  state->recomputed_tokens = recomputed_tokens_;
  state->poisoned = poisoned_;
  state->checksums_agreed = checksums_agreed_ + (group_ ? group_->checksums.agreed() : 0);
  state->mismatches = mismatches_;
}

}  // namespace shoal::core
