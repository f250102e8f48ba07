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
size_t TokensBytes(const EngineParts& p) {
  return (static_cast<size_t>(p.limits.max_sequences) * sizeof(int32_t) + 7) / 8 * 8;
}
size_t FetchBytes(const EngineParts& p) {
  return SumsBytes(p) + TokensBytes(p) + static_cast<size_t>(p.limits.max_sequences) * sizeof(ops::SampleLogprobs);
}

}  // namespace

absl::StatusOr<std::unique_ptr<StepRunner>> StepRunner::Create(EngineParts* parts, int steps) {
  const int sequences = parts->limits.max_sequences;
  device::Device* const device = parts->device;
  std::optional<sampling::Sampler> sampler;
  if (parts->comm->mailbox_out != nullptr) {
    SHOAL_ASSIGN_OR_RETURN(sampler, sampling::Sampler::Create(device, sequences, parts->limits.vocab));
  }
  SHOAL_ASSIGN_OR_RETURN(device::Memory fetched, device->AllocateHost(steps * FetchBytes(*parts)));
  auto places = std::make_unique<Places>(sequences);
  SHOAL_ASSIGN_OR_RETURN(TokenFeed feed, TokenFeed::Create(device, parts->comm->mailbox_in.get(), parts->mailbox_slots,
                                                           sequences, places.get()));
  return std::unique_ptr<StepRunner>(
      new StepRunner(parts, std::move(places), std::move(feed), std::move(sampler), std::move(fetched), steps));
}

StepRunner::StepRunner(EngineParts* parts, std::unique_ptr<Places> places, TokenFeed feed,
                       std::optional<sampling::Sampler> sampler, device::Memory fetched, int steps)
    : p_(*parts),
      places_(std::move(places)),
      feed_(std::move(feed)),
      sampler_(std::move(sampler)),
      pairs_(p_.device),
      fetched_(std::move(fetched)),
      steps_(steps) {}

absl::Status StepRunner::Enqueue(const plan::StepPlan& plan, const plan::PlanMirror& mirror,
                                 const std::function<absl::Status()>& record_more, EnqueuedStep* step) {
  places_->Apply(plan);
  batch_.Build(plan, mirror, *places_);
  SHOAL_RETURN_IF_ERROR(BeginBatch(plan, mirror));
  SHOAL_RETURN_IF_ERROR(Copy());
  const bool one_by_one = plan.bucket == 0 || p_.device->is_host() || p_.operations->checked();
  SHOAL_RETURN_IF_ERROR(one_by_one ? Middle() : LaunchMiddle(plan.bucket));
  next_fetch_ = (next_fetch_ + 1) % steps_;
  SHOAL_RETURN_IF_ERROR(FetchSums(step));
  step->decodes = batch_.decodes();
  SHOAL_RETURN_IF_ERROR(Sample(record_more, step));
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
  logits_ = {};
  if (p_.comm->previous == nullptr) SHOAL_RETURN_IF_ERROR(p_.decoder->Embed());
  SHOAL_RETURN_IF_ERROR(p_.decoder->Forward());
  if (p_.comm->next != nullptr || p_.decoder->staged().samples() == 0) return absl::OkStatus();
  SHOAL_ASSIGN_OR_RETURN(logits_, p_.decoder->Logits());
  return absl::OkStatus();
}

absl::Status StepRunner::Sample(const std::function<absl::Status()>& record_more, EnqueuedStep* step) {
  tokens_ = {};
  const std::span<const sampling::Output> outputs = batch_.outputs();
  if (outputs.empty() || !sampler_.has_value()) return absl::OkStatus();
  while (sampler_->LacksTokens(outputs)) SHOAL_RETURN_IF_ERROR(record_more());
  Begin(Operation::kSample);
  const TimeNs begin = p_.clock->Now();
  SHOAL_ASSIGN_OR_RETURN(const sampling::Sampled sampled,
                         sampler_->Sample(logits_, p_.decoder->staged().sampling(), outputs));
  if (p_.device->is_host()) step->sampling = p_.clock->Now() - begin;
  tokens_ = sampled.tokens.first(static_cast<size_t>(batch_.samples()));
  step->rows = batch_.output_rows();
  for (const sampling::Output& output : outputs.subspan(tokens_.size())) step->known.push_back(output.forced);
  return sampled.logprobs == nullptr ? absl::OkStatus() : FetchLogprobs(sampled.logprobs, step);
}

// One copy of the stretch that has all that are wanted: those of known tokens lie together.
absl::Status StepRunner::FetchLogprobs(const ops::SampleLogprobs* logprobs, EnqueuedStep* step) {
  size_t first = 0, end = 0;
  const std::span<const ops::SampleRow> rows = batch_.batch().sampling;
  for (size_t i = 0; i < rows.size(); ++i) {
    step->tops.push_back(rows[i].logprobs);
    if (rows[i].logprobs < 0) continue;
    if (end == 0) first = i;
    end = i + 1;
  }
  auto* const fetched = reinterpret_cast<ops::SampleLogprobs*>(fetched_.data() + next_fetch_ * FetchBytes(p_) +
                                                               SumsBytes(p_) + TokensBytes(p_));
  step->logprobs = {fetched, end - first};
  step->logprobs_first = static_cast<int32_t>(first);
  return p_.device->Fetch(fetched, logprobs + first, step->logprobs.size_bytes());
}

absl::Status StepRunner::LaunchMiddle(int bucket) {
  Graph& graph = graphs_[bucket];
  if (graph.launch == nullptr && p_.device->table().warms_up && !std::exchange(graph.warm, true)) return Middle();
  if (graph.launch == nullptr) {
    const graph::OperationSet before = p_.operations->Take();
    SHOAL_ASSIGN_OR_RETURN(graph.launch, p_.device->Record([this] { return Middle(); }));
    graph.operations = p_.operations->Take();
    graph.logits = logits_;
    p_.operations->Add(before);
  }
  logits_ = graph.logits;
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
  if (tokens_.empty()) return absl::OkStatus();
  auto* const fetched = reinterpret_cast<int32_t*>(fetched_.data() + next_fetch_ * FetchBytes(p_) + SumsBytes(p_));
  step->tokens = {fetched, tokens_.size()};
  SHOAL_RETURN_IF_ERROR(p_.device->Fetch(fetched, tokens_.data(), tokens_.size_bytes()));
  Begin(Operation::kPostTokens);
  return p_.comm->mailbox_out->Post(number, tokens_);
}

}  // namespace shoal::rank
