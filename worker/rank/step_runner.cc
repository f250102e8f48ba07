// Tested by: tests/rank/engine_test.cc
#include "worker/rank/step_runner.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/graph/staged_batch.h"

namespace shoal::rank {
namespace {

// Of what is fetched in one step.
size_t SumsBytes(const EngineParts& p) { return (2 * p.kv.size() + 1) * ops::kChecksumParts * sizeof(uint64_t); }
size_t FetchBytes(const EngineParts& p) {
  return SumsBytes(p) + (static_cast<size_t>(p.limits.max_sequences) * sizeof(int32_t) + 7) / 8 * 8;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StepRunner>> StepRunner::Create(EngineParts* parts, int steps) {
  const int sequences = parts->limits.max_sequences;
  device::Device* const device = parts->device;
  SHOAL_ASSIGN_OR_RETURN(sampling::Sampler sampler, sampling::Sampler::Create(device, sequences));
  SHOAL_ASSIGN_OR_RETURN(device::Memory fetched, device->AllocateHost(steps * FetchBytes(*parts)));
  auto places = std::make_unique<Places>(sequences);
  SHOAL_ASSIGN_OR_RETURN(TokenFeed feed, TokenFeed::Create(device, parts->comm->mailbox_in.get(), parts->mailbox_slots,
                                                           sequences, places.get()));
  return std::unique_ptr<StepRunner>(
      new StepRunner(parts, std::move(places), std::move(feed), std::move(sampler), std::move(fetched), steps));
}

StepRunner::StepRunner(EngineParts* parts, std::unique_ptr<Places> places, TokenFeed feed, sampling::Sampler sampler,
                       device::Memory fetched, int steps)
    : p_(*parts),
      places_(std::move(places)),
      feed_(std::move(feed)),
      sampler_(std::move(sampler)),
      pairs_(p_.device),
      fetched_(std::move(fetched)),
      steps_(steps) {}

absl::Status StepRunner::Enqueue(const plan::StepPlan& plan, const plan::PlanMirror& mirror, EnqueuedStep* step) {
  places_->Apply(plan);
  batch_.Build(plan, mirror, *places_);
  SHOAL_RETURN_IF_ERROR(BeginBatch(plan, mirror));
  SHOAL_RETURN_IF_ERROR(Copy());
  const bool one_by_one = plan.bucket == 0 || p_.device->is_host() || p_.operations->checked();
  SHOAL_RETURN_IF_ERROR(one_by_one ? Middle() : LaunchMiddle(plan.bucket));
  next_fetch_ = (next_fetch_ + 1) % steps_;
  SHOAL_RETURN_IF_ERROR(FetchSums(step));
  step->decodes = batch_.decodes();
  SHOAL_RETURN_IF_ERROR(Deliver(plan.stamp.step, step));
  SHOAL_ASSIGN_OR_RETURN(step->mark, p_.device->Mark());
  return absl::OkStatus();
}

absl::Status StepRunner::BeginBatch(const plan::StepPlan& plan, const plan::PlanMirror& mirror) {
  graph::Batch batch = batch_.batch();
  if (p_.device->is_host()) batch.bucket = 0;
  if (p_.comm->previous != nullptr) {
    SHOAL_RETURN_IF_ERROR(p_.decoder->Begin(batch));
    Begin(Operation::kReceive);
    return p_.comm->previous->Receive(p_.decoder->residual());
  }
  Begin(Operation::kTakeTokens);
  SHOAL_RETURN_IF_ERROR(feed_.Sources(plan, mirror, &sources_));
  batch.sources = sources_;
  batch.last = feed_.last();
  return p_.decoder->Begin(batch);
}

absl::Status StepRunner::Copy() {
  if (p_.provoke_fault != nullptr && p_.provoke_fault->exchange(false)) {
    Begin(Operation::kCopyBlocks);
    SHOAL_RETURN_IF_ERROR(p_.device->ProvokeFault());
  }
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

// What depends on the bucket alone, when there is one. On all ranks of the last stage: each has a part of the logits.
absl::Status StepRunner::Middle() {
  tokens_ = {};
  sampling_ = 0;
  if (p_.comm->previous == nullptr) SHOAL_RETURN_IF_ERROR(p_.decoder->Embed());
  SHOAL_RETURN_IF_ERROR(p_.decoder->Forward());
  const int samples = p_.decoder->staged().samples();
  if (p_.comm->next != nullptr || samples == 0) return absl::OkStatus();
  SHOAL_ASSIGN_OR_RETURN(const std::span<const float> logits, p_.decoder->Logits());
  if (p_.comm->mailbox_out == nullptr) return absl::OkStatus();
  Begin(Operation::kSample);
  const TimeNs begin = p_.clock->Now();
  SHOAL_ASSIGN_OR_RETURN(tokens_, sampler_.Sample(logits, p_.limits.vocab, p_.decoder->staged().sampling(), samples));
  if (p_.device->is_host()) sampling_ = p_.clock->Now() - begin;
  return absl::OkStatus();
}

absl::Status StepRunner::LaunchMiddle(int bucket) {
  Graph& graph = graphs_[bucket];
  if (graph.launch == nullptr && p_.device->table().warms_up && !std::exchange(graph.warm, true)) return Middle();
  if (graph.launch == nullptr) {
    const graph::OperationSet before = p_.operations->Take();
    SHOAL_ASSIGN_OR_RETURN(graph.launch, p_.device->Record([this] { return Middle(); }));
    graph.operations = p_.operations->Take();
    graph.tokens = tokens_;
    p_.operations->Add(before);
  }
  tokens_ = graph.tokens;
  Begin(Operation::kGraph);
  p_.operations->Add(graph.operations);
  return p_.device->Launch(*graph.launch);
}

absl::Status StepRunner::FetchSums(EnqueuedStep* step) {
  const std::span<const uint64_t> sums = p_.decoder->sums();
  if (sums.empty()) return absl::OkStatus();
  auto* const fetched = reinterpret_cast<uint64_t*>(fetched_.data() + next_fetch_ * FetchBytes(p_));
  step->sums = {fetched, sums.size()};
  return p_.device->Fetch(fetched, sums.data(), sums.size_bytes());
}

absl::Status StepRunner::Deliver(uint64_t number, EnqueuedStep* step) {
  if (p_.comm->next != nullptr) {
    Begin(Operation::kSend);
    return p_.comm->next->Send(p_.decoder->residual());
  }
  if (batch_.sampled().empty() || p_.comm->mailbox_out == nullptr) return absl::OkStatus();
  step->sampled = batch_.sampled();
  step->sampling = sampling_;
  const std::span<const int32_t> tokens = tokens_.first(step->sampled.size());
  auto* const fetched = reinterpret_cast<int32_t*>(fetched_.data() + next_fetch_ * FetchBytes(p_) + SumsBytes(p_));
  step->tokens = fetched;
  SHOAL_RETURN_IF_ERROR(p_.device->Fetch(fetched, tokens.data(), tokens.size_bytes()));
  Begin(Operation::kPostTokens);
  return p_.comm->mailbox_out->Post(number, tokens);
}

}  // namespace shoal::rank
