// From requests to plans: what Decide chose is carried out here, and nowhere else.
#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "common/plan/wire.h"
#include "coordinator/core/serving.h"

namespace shoal::core {
namespace {

// New sequences that one plan may start. Their prompts fill its token budget long before.
constexpr int32_t kMaxAdmissions = 64;

}  // namespace

void Serving::Pump(TimeNs now, EffectList& fx) {
  // One more than stages: each stage works on one, and the next waits at the first before that has ended.
  while (group_ != nullptr && group_->flight.size() < group_->info.stages + 1) {
    if (running_.empty() && waiting_.empty()) return;
    if (!SendNext(now, fx)) return;
  }
}

bool Serving::SendNext(TimeNs now, EffectList& fx) {
  const int32_t cohorts = group_->info.stages;
  alone_ = FindAlone();
  if (alone_ != nullptr && !MakeWay(*alone_)) return false;
  Rebalance();
  for (int32_t k = 0; k < cohorts; ++k) {
    const int32_t cohort = (group_->next_cohort + k) % cohorts;
    FillView(cohort);
    Carry(Decide(view_), now);
    if (!group_->builder.has_rows()) continue;
    group_->next_cohort = (cohort + 1) % cohorts;
    Send(cohort, fx);
    return true;
  }
  return false;
}

void Serving::FillView(int32_t cohort) {
  view_.cohort = cohort;
  view_.cohorts = group_->info.stages;
  view_.block_size = limits_.block_size;
  view_.blocks_free = group_->pool.free();
  view_.max_tokens = limits_.max_tokens;
  view_.max_sequences = limits_.max_sequences;
  if (alone_ == nullptr) {
    viewed_.assign(running_.begin(), running_.end());
  } else {
    viewed_.assign(alone_->running ? 1 : 0, alone_);
  }
  view_.running.clear();
  for (const Sequence* s : viewed_) {
    const bool wants_more = s->length - s->request->prompt_tokens < s->request->max_tokens;
    RunningView& view = view_.running.emplace_back(RunningView{s->cohort, s->unanswered, s->start_tokens, s->computed,
                                                               static_cast<int32_t>(s->blocks.size()), wants_more});
    view.scored = {s->scored_from, s->scored_to};
    if (!OneOfMany(*s) || PromptBlocks(*s->request) == 0) continue;
    view.shared = PromptBlocks(*s->request);
    view.prompt = s->blocks[0];
  }
  // One plan at a time is enough for a canary, which is never beside others: a client's request that arrives finds a
  // place in the next one.
  if (canary_ != nullptr && !viewed_.empty() && viewed_[0]->unanswered > 0) {
    view_.running[0].unanswered = kMaxUnanswered;
  }
  FillWaiting();
}

void Serving::FillWaiting() {
  view_.waiting.clear();
  viewed_waiting_.clear();
  view_.waiting_total = static_cast<int32_t>(waiting_.size());
  if (alone_ != nullptr) {
    view_.waiting_total = alone_->running ? 0 : 1;
    if (!alone_->running) ViewWaiting(*alone_);
    return;
  }
  const int32_t head = std::min(kMaxAdmissions, limits_.max_sequences - static_cast<int32_t>(running_.size()));
  const Request* unsourced =
      nullptr;  // where one choice has nobody to take the prompt from, those behind it wait for it
  for (const auto& [order, s] : waiting_) {
    if (static_cast<int32_t>(view_.waiting.size()) >= head) break;
    const bool awaits = s->request == unsourced || AwaitsPrompt(*s);
    if (s->request != unsourced && OneOfMany(*s) && Source(*s) == nullptr) unsourced = s->request;
    if (awaits) {
      --view_.waiting_total;
    } else {
      ViewWaiting(*s);
    }
  }
}

void Serving::ViewWaiting(Sequence& s) {
  WaitingView view{static_cast<int32_t>(s.tokens.size()), s.unanswered == 0};
  const Sequence* const source = Source(s);
  if (source != nullptr) {
    view.computed = std::min(s.request->prompt_tokens, view.tokens - 1);
    view.shared = PromptBlocks(*s.request);
  }
  view.scored = ScoredRows(s);
  view_.waiting.push_back(view);
  viewed_waiting_.push_back({&s, source});
}

void Serving::Rebalance() {
  if (group_->info.stages < 2 || alone_ != nullptr) return;
  FillView(0);
  const CohortMove move = Balance(view_);
  if (move.index >= 0) viewed_[move.index]->cohort = move.to;
}

void Serving::Carry(const Decision& decision, TimeNs now) {
  for (int32_t i : decision.preempt) Preempt(*viewed_[i]);
  for (const Decision::Row& row : decision.rows) {
    Sequence& s = *viewed_[row.index];
    if (row.new_blocks > 0) {
      const size_t before = s.blocks.size();
      SHOAL_CHECK(group_->pool.Allocate(row.new_blocks, &s.blocks));
      group_->builder.AddBlocks(s.id, std::vector<int32_t>(s.blocks.begin() + before, s.blocks.end()));
    }
    AddRow(s, row.count);
  }
  for (size_t k = 0; k < decision.admit.size(); ++k) {
    const Candidate& next = viewed_waiting_[k];
    StartSequence(*next.sequence, next.source, decision.admit[k], view_.cohort, now);
  }
}

void Serving::Preempt(Sequence& s) {
  StopRunning(s);
  Wait(s);
  if (s.unanswered == 0) Forget(s);
  ++s.request->stats.preemptions;
  ++preemptions_;
}

void Serving::StartSequence(Sequence& s, const Sequence* source, const Decision::Admission& admission, int32_t cohort,
                            TimeNs now) {
  Request& r = *s.request;
  SHOAL_CHECK(!s.running && s.id == 0 && s.unanswered == 0);
  if (r.stats.first_scheduled == 0) {
    r.stats.first_scheduled = now;
    if (&r != canary_.get()) prompt_tokens_ += static_cast<uint64_t>(r.prompt_tokens);
  }
  PutOnRanks(s, cohort);
  if (source != nullptr) TakePrompt(*source, s);
  SHOAL_CHECK(group_->pool.Allocate(admission.blocks, &s.blocks));
  if (source != nullptr) CopyPromptEnd(*source, s);
  AddRow(s, admission.count);
}

// From waiting to running. The ranks hear of it with its first row.
void Serving::PutOnRanks(Sequence& s, int32_t cohort) {
  waiting_.erase(s.order);
  const auto later = [](const Sequence* a, const Sequence* b) { return a->order < b->order; };
  running_.insert(std::upper_bound(running_.begin(), running_.end(), &s, later), &s);
  s.running = true;
  s.started = false;
  s.id = next_sequence_++;
  s.cohort = cohort;
  s.start_tokens = s.length = static_cast<int32_t>(s.tokens.size());
  s.computed = 0;
  const Scored scored = ScoredRows(s);
  s.scored_from = scored.from;
  s.scored_to = scored.to;
  by_id_.emplace(s.id, &s);
}

void Serving::AddRow(Sequence& s, int32_t count) {
  if (!s.started) {
    plan::SequenceStart start;
    start.id = s.id;
    start.tokens = s.tokens;
    start.prompt_tokens = s.request->prompt_tokens;
    start.sampling = s.request->sampling;
    start.sampling.choice = static_cast<uint32_t>(s.choice);
    start.blocks = s.blocks;
    start.kv_tokens = s.computed;
    group_->builder.Start(std::move(start));
    s.started = true;
  }
  recomputed_tokens_ += static_cast<uint64_t>(std::max(0, std::min(s.computed + count, s.kv_before) - s.computed));
  plan::Row row;
  row.id = s.id;
  row.source = s.computed < s.start_tokens ? plan::TokenSource::kLiteral : plan::TokenSource::kLastSample;
  row.position = s.computed;
  row.count = count;
  const bool scored = s.computed >= s.scored_from && s.computed < s.scored_to;
  s.computed += count;
  if (s.computed == s.length) {
    row.output = scored ? plan::RowOutput::kBoth : plan::RowOutput::kSample;
    ++s.length;
  } else if (scored) {
    row.output = plan::RowOutput::kLogprobs;
  }
  ++s.unanswered;
  group_->builder.AddRow(row);
}

void Serving::Send(int32_t cohort, EffectList& fx) {
  plan::StepPlan plan = group_->builder.Finish(cohort);
  plan.checksum = group_->checksums.Ask(plan.stamp.step, canary_runs());
  if (group_->info.graphs) plan.bucket = plan::BucketOf(plan, group_->info.limits);
  group_->flight.Sent(plan, group_->builder.mirror());
  ++steps_;
  fx.control.push_back(SendPlan{group_->info.agents, plan.stamp, plan::EncodePlan(plan)});
}

}  // namespace shoal::core
