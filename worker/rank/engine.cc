#include "worker/rank/engine.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "common/plan/control.h"
#include "worker/rank/operation.h"
#include "worker/rank/step_batch.h"
#include "worker/rank/token_feed.h"
#include "worker/sampling/sampler.h"

namespace shoal::rank {
namespace {

class Engine {
 public:
  explicit Engine(EngineParts parts)
      : p_(std::move(parts)),
        mirror_(p_.limits),
        feed_(p_.comm->mailbox_in.get(), p_.mailbox_slots),
        sampler_(p_.device),
        pairs_(p_.device) {}

  absl::Status Run();

 private:
  absl::Status Step(const plan::StepPlan& plan, TimeNs arrived);
  absl::Status Execute(const plan::StepPlan& plan, plan::StepResult* result);
  absl::Status FillResidual(const plan::StepPlan& plan);
  absl::Status Copy();
  absl::Status Sample(uint64_t step, std::vector<plan::RowResult>* rows);
  absl::Status SampleHere(uint64_t step, std::span<const float> logits, std::vector<plan::RowResult>* rows);
  void Count(const plan::StepPlan& plan, bool next_is_here);

  void Begin(Operation op) {
    p_.page->operation.store(static_cast<uint32_t>(op), std::memory_order_relaxed);
    p_.device->stream().Advance();
  }
  void SetState(plan::RankState s) { p_.page->state.store(static_cast<uint32_t>(s), std::memory_order_relaxed); }
  std::span<std::byte> ResidualBytes() { return p_.decoder->residual(); }

  EngineParts p_;
  plan::PlanMirror mirror_;
  StepBatch batch_;
  TokenFeed feed_;  // used on stage 0 only
  sampling::Sampler sampler_;
  device::UploadBuffer pairs_;
  std::vector<int32_t> ids_, tokens_;
  DurationNs sampling_ = 0;  // of the present step
};

absl::Status Engine::Run() {
  p_.device->stream().progress = &p_.page->progress;
  while (p_.page->stop.load(std::memory_order_acquire) == 0) {
    Begin(Operation::kIdle);
    SetState(plan::RankState::kReady);
    plan::StepPlan plan;
    TimeNs arrived = 0;
    const absl::Status next = p_.plans->Next(&plan, &arrived);
    if (absl::IsCancelled(next)) return absl::OkStatus();
    SHOAL_RETURN_IF_ERROR(next);
    if (p_.page->abort.load(std::memory_order_acquire) != 0) return absl::AbortedError("the group was aborted");
    SetState(plan::RankState::kRunning);
    SHOAL_RETURN_IF_ERROR(Step(plan, arrived));
  }
  return absl::OkStatus();
}

absl::Status Engine::Step(const plan::StepPlan& plan, TimeNs arrived) {
  plan::StepResult result = {.stamp = plan.stamp, .rank = p_.rank, .rows = {}, .times = {}, .checksum = 0, .error = {}};
  result.times.received = arrived;
  result.times.started = p_.clock->Now();
  const DurationNs waited = p_.comm->stats->waited;
  sampling_ = 0;
  const absl::Status status = Execute(plan, &result);
  // Nobody waits for the answer any more, or another rank is lost, and its agent says so.
  if (absl::IsAborted(status) || absl::IsUnavailable(status)) return status;
  const bool next_is_here = p_.plans->HasNext();
  result.times.ended = p_.clock->Now();
  result.times.waited = p_.comm->stats->waited - waited;
  result.times.sampling = sampling_;
  if (status.ok()) {
    Count(plan, next_is_here);
  } else {
    result.rows.clear();
    result.checksum = 0;
    result.error = status.ToString();
  }
  Begin(Operation::kAnswer);
  const absl::Status answered = p_.on_result(std::move(result));
  return status.ok() ? answered : status;
}

absl::Status Engine::Execute(const plan::StepPlan& plan, plan::StepResult* result) {
  Begin(Operation::kCheckPlan);
  SHOAL_RETURN_IF_ERROR(mirror_.Apply(plan, true));
  batch_.Build(plan, mirror_);
  SHOAL_RETURN_IF_ERROR(FillResidual(plan));
  SHOAL_RETURN_IF_ERROR(Copy());
  SHOAL_RETURN_IF_ERROR(p_.decoder->Forward());
  if (plan.checksum) result->checksum = p_.decoder->checksum();
  if (p_.comm->next == nullptr) return Sample(plan.stamp.step, &result->rows);
  Begin(Operation::kSend);
  return p_.comm->next->Send(ResidualBytes());
}

absl::Status Engine::FillResidual(const plan::StepPlan& plan) {
  if (p_.comm->previous != nullptr) {
    SHOAL_RETURN_IF_ERROR(p_.decoder->Begin(batch_.batch()));
    Begin(Operation::kReceive);
    return p_.comm->previous->Receive(ResidualBytes());
  }
  Begin(Operation::kTakeTokens);
  SHOAL_RETURN_IF_ERROR(feed_.Ids(plan, mirror_, &ids_));
  graph::Batch batch = batch_.batch();
  batch.ids = ids_;
  SHOAL_RETURN_IF_ERROR(p_.decoder->Begin(batch));
  return p_.decoder->Embed();
}

absl::Status Engine::Copy() {
  if (batch_.copies().empty()) return absl::OkStatus();
  Begin(Operation::kCopyBlocks);
  const std::vector<ops::BlockPair>& copies = batch_.copies();
  SHOAL_ASSIGN_OR_RETURN(const ops::BlockPair* const pairs, pairs_.Put(std::span<const ops::BlockPair>(copies)));
  for (const ops::KvLayer& layer : p_.kv) {
    SHOAL_RETURN_IF_ERROR(p_.device->table().copy_blocks(
        p_.device->stream(), {.cache = layer, .pairs = pairs, .pair_count = static_cast<int>(copies.size())}));
  }
  return absl::OkStatus();
}

// On all ranks of the last stage: each of them has a part of the logits.
absl::Status Engine::Sample(uint64_t step, std::vector<plan::RowResult>* rows) {
  if (batch_.sampled().empty()) return absl::OkStatus();
  SHOAL_ASSIGN_OR_RETURN(const std::span<const float> logits, p_.decoder->Logits());
  return p_.comm->mailbox_out == nullptr ? absl::OkStatus() : SampleHere(step, logits, rows);
}

absl::Status Engine::SampleHere(uint64_t step, std::span<const float> logits, std::vector<plan::RowResult>* rows) {
  Begin(Operation::kSample);
  const TimeNs begin = p_.clock->Now();
  tokens_.resize(batch_.sampled().size());
  SHOAL_RETURN_IF_ERROR(sampler_.Sample(logits, p_.limits.vocab, batch_.sampling(), tokens_));
  sampling_ = p_.clock->Now() - begin;
  for (size_t i = 0; i < tokens_.size(); ++i) {
    plan::RowResult& row = rows->emplace_back();
    row.id = batch_.sampled()[i];
    if (tokens_[i] >= 0) {
      row.tokens = {tokens_[i]};
      continue;
    }
    // The coordinator will end this sequence. Plans that are under way already continue from a sample of it.
    row.error = plan::RowError::kNotFinite;
    tokens_[i] = 0;
  }
  Begin(Operation::kPostTokens);
  return p_.comm->mailbox_out->Post(step, tokens_);
}

void Engine::Count(const plan::StepPlan& plan, bool next_is_here) {
  ControlPage& page = *p_.page;
  for (size_t t = 0; t < comm::kTransportNames.size(); ++t) {
    const comm::SentBytes& sent = p_.comm->stats->sent[t];
    page.sent[t].tensor.store(sent.tensor, std::memory_order_relaxed);
    page.sent[t].activation.store(sent.activation, std::memory_order_relaxed);
    page.sent[t].token.store(sent.token, std::memory_order_relaxed);
  }
  if (batch_.decodes()) {
    page.decode_steps.fetch_add(1, std::memory_order_relaxed);
    if (next_is_here) page.decode_steps_planned.fetch_add(1, std::memory_order_relaxed);
  }
  page.step.store(plan.stamp.step, std::memory_order_release);
}

}  // namespace

absl::Status RunEngine(EngineParts parts) {
  SHOAL_CHECK(parts.decoder != nullptr && parts.comm != nullptr && parts.page != nullptr && parts.on_result != nullptr);
  return Engine(std::move(parts)).Run();
}

}  // namespace shoal::rank
