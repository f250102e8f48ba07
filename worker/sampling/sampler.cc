#include "worker/sampling/sampler.h"

#include <algorithm>
#include <type_traits>

#include "common/base/check.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"
#include "kernels/ops/token_counts.h"

namespace shoal::sampling {
namespace {

constexpr size_t kAlignment = 256;  // device::Memory's
constexpr size_t kChunk = 16384;    // tokens counted at once: most prompts need one copy

bool IsPenalised(const plan::SamplingParams& s) {
  return s.repetition_penalty != 1 || s.presence_penalty != 0 || s.frequency_penalty != 0;
}

// How long each array is, in bytes.
struct Layout {
  Layout(int max_rows, int vocab) {
    const auto rows = static_cast<size_t>(max_rows);
    logprobs = Round(rows * sizeof(ops::SampleLogprobs));
    biases = Round(rows * plan::kMaxTokenBiases * sizeof(ops::SampleBias));
    counts = Round(rows * static_cast<size_t>(ops::CountsStride(vocab)) * sizeof(uint16_t));
    masks = Round(rows * static_cast<size_t>(ops::MaskWords(vocab)) * sizeof(uint32_t));
    tokens = Round(rows * sizeof(int32_t));
    chunk = Round(std::max(rows, kChunk) * sizeof(int32_t));
  }
  static size_t Round(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }
  size_t Sum() const { return logprobs + biases + counts + masks + tokens + 2 * chunk; }
  size_t logprobs, biases, counts, masks, tokens, chunk;
};

}  // namespace

ops::SampleRow MakeRow(const Output& output) {
  const plan::SamplingParams& s = output.sequence->sampling;
  if (output.forced >= 0) return {.forced = output.forced, .logprobs = s.prompt_logprobs};
  const bool masked = HasMask(s, output.sequence->prompt_tokens, output.position);
  return {.temperature = s.temperature,
          .top_k = s.top_k,
          .top_p = s.top_p,
          .min_p = s.min_p,
          .uniform = SamplingUniform(s.seed, s.choice, static_cast<uint32_t>(output.position), 0),
          .repetition = s.repetition_penalty,
          .presence = s.presence_penalty,
          .frequency = s.frequency_penalty,
          .place = IsPenalised(s) ? output.place : -1,
          .mask = masked ? output.place : -1,
          .bias_first = s.biases.empty() ? 0 : output.place * static_cast<int32_t>(plan::kMaxTokenBiases),
          .bias_count = static_cast<int32_t>(s.biases.size()),
          .logprobs = s.logprobs};
}

int64_t Sampler::Bytes(int max_rows, int vocab) { return static_cast<int64_t>(Layout(max_rows, vocab).Sum()); }

Sampler::Sampler(device::Device* device, int max_rows, int vocab)
    : device_(device), vocab_(vocab), places_(static_cast<size_t>(max_rows)) {}

absl::StatusOr<Sampler> Sampler::Create(device::Device* device, int max_rows, int vocab) {
  Sampler sampler(device, max_rows, vocab);
  const Layout layout(max_rows, vocab);
  SHOAL_ASSIGN_OR_RETURN(sampler.memory_, device->Allocate(layout.Sum()));
  std::byte* at = sampler.memory_.data();
  const auto take = [&at](size_t bytes, auto** array) {
    *array = reinterpret_cast<std::remove_reference_t<decltype(*array)>>(at);
    at += bytes;
  };
  take(layout.logprobs, &sampler.logprobs_);
  take(layout.biases, &sampler.biases_);
  take(layout.counts, &sampler.counts_);
  take(layout.masks, &sampler.masks_);
  take(layout.tokens, &sampler.tokens_);
  take(layout.chunk, &sampler.chunk_);
  take(layout.chunk, &sampler.chunk_places_);
  return sampler;
}

MaskSource* Sampler::SourceOf(const Output& output) {
  Place& place = places_[static_cast<size_t>(output.place)];
  if (place.mask_of != output.owner) {
    place.mask_of = output.owner;
    place.source = MakeMaskSource(output.sequence->sampling, output.sequence->prompt_tokens);
    place.mask.resize(static_cast<size_t>(ops::MaskWords(vocab_)));
  }
  return place.source.get();
}

bool Sampler::LacksTokens(std::span<const Output> outputs) {
  return std::any_of(outputs.begin(), outputs.end(), [this](const Output& o) {
    if (o.forced >= 0 || static_cast<int64_t>(o.sequence->tokens.size()) >= o.position) return false;
    MaskSource* const source = SourceOf(o);
    return source != nullptr && source->reads_tokens();
  });
}

absl::Status Sampler::PutMask(const Output& output) {
  MaskSource* const source = SourceOf(output);
  Place& place = places_[static_cast<size_t>(output.place)];
  std::span<const int32_t> tokens;
  if (source->reads_tokens()) {
    const std::vector<int32_t>& known = output.sequence->tokens;
    SHOAL_CHECK(static_cast<int64_t>(known.size()) >= output.position);
    tokens = {known.data(), static_cast<size_t>(output.position)};
  }
  if (!source->Update(output.position, tokens, place.mask)) return absl::OkStatus();
  return device_->Upload(masks_ + output.place * ops::MaskWords(vocab_), place.mask.data(),
                         place.mask.size() * sizeof(uint32_t));
}

absl::Status Sampler::PutBiases(const Output& output) {
  Place& place = places_[static_cast<size_t>(output.place)];
  if (place.biases_of == output.owner) return absl::OkStatus();
  place.biases_of = output.owner;
  std::vector<ops::SampleBias> biases;
  for (const plan::TokenBias& b : output.sequence->sampling.biases) biases.push_back({b.token, b.bias});
  return device_->Upload(biases_ + output.place * static_cast<int64_t>(plan::kMaxTokenBiases), biases.data(),
                         biases.size() * sizeof(ops::SampleBias));
}

absl::Status Sampler::Count(std::span<const int32_t> tokens, int32_t place, bool in_prompt) {
  for (size_t begin = 0; begin < tokens.size(); begin += kChunk) {
    const size_t count = std::min(kChunk, tokens.size() - begin);
    on_host_.assign(count, place);
    SHOAL_RETURN_IF_ERROR(device_->Upload(chunk_, tokens.data() + begin, count * sizeof(int32_t)));
    SHOAL_RETURN_IF_ERROR(device_->Upload(chunk_places_, on_host_.data(), count * sizeof(int32_t)));
    SHOAL_RETURN_IF_ERROR(device_->table().count_tokens(device_->stream(), {.tokens = chunk_,
                                                                            .places = chunk_places_,
                                                                            .counts = counts_,
                                                                            .count = static_cast<int>(count),
                                                                            .vocab = vocab_,
                                                                            .in_prompt = in_prompt}));
  }
  return absl::OkStatus();
}

// A sequence samples for the first time here, with all tokens of its start behind it.
absl::Status Sampler::StartCounts(const Output& output) {
  Place& place = places_[static_cast<size_t>(output.place)];
  if (place.counts_of == output.owner) return absl::OkStatus();
  place.counts_of = output.owner;
  const plan::MirroredSequence& sequence = *output.sequence;
  SHOAL_CHECK(output.position == sequence.start_tokens);
  SHOAL_RETURN_IF_ERROR(device_->Upload(chunk_places_, &output.place, sizeof(int32_t)));
  SHOAL_RETURN_IF_ERROR(device_->table().clear_counts(
      device_->stream(), {.counts = counts_, .places = chunk_places_, .count = 1, .vocab = vocab_}));
  const std::span<const int32_t> tokens(sequence.tokens.data(), static_cast<size_t>(sequence.start_tokens));
  const auto prompt = static_cast<size_t>(sequence.prompt_tokens);
  SHOAL_RETURN_IF_ERROR(Count(tokens.first(prompt), output.place, true));
  return Count(tokens.subspan(prompt), output.place, false);
}

absl::Status Sampler::CountSampled(std::span<const Output> outputs) {
  on_host_.clear();
  for (const Output& o : outputs) {
    on_host_.push_back(o.forced < 0 && IsPenalised(o.sequence->sampling) ? o.place : -1);
  }
  SHOAL_RETURN_IF_ERROR(device_->Upload(chunk_places_, on_host_.data(), on_host_.size() * sizeof(int32_t)));
  return device_->table().count_tokens(device_->stream(), {.tokens = tokens_,
                                                           .places = chunk_places_,
                                                           .counts = counts_,
                                                           .count = static_cast<int>(outputs.size()),
                                                           .vocab = vocab_,
                                                           .in_prompt = false});
}

absl::StatusOr<Sampler::Wants> Sampler::Prepare(std::span<const Output> outputs) {
  Wants wants;
  for (const Output& o : outputs) {
    const plan::SamplingParams& s = o.sequence->sampling;
    wants.logprobs |= o.forced >= 0 || s.logprobs >= 0;
    if (o.forced >= 0) continue;
    if (HasMask(s, o.sequence->prompt_tokens, o.position)) {
      wants.masks = true;
      SHOAL_RETURN_IF_ERROR(PutMask(o));
    }
    if (!s.biases.empty()) {
      wants.biases = true;
      SHOAL_RETURN_IF_ERROR(PutBiases(o));
    }
    if (IsPenalised(s)) {
      wants.counts = true;
      SHOAL_RETURN_IF_ERROR(StartCounts(o));
    }
  }
  return wants;
}

absl::StatusOr<Sampled> Sampler::Sample(std::span<const float> logits, const ops::SampleRow* rows,
                                        std::span<const Output> outputs) {
  SHOAL_CHECK(outputs.size() <= places_.size() && logits.size() >= outputs.size() * static_cast<size_t>(vocab_));
  SHOAL_ASSIGN_OR_RETURN(const Wants wants, Prepare(outputs));
  SHOAL_RETURN_IF_ERROR(device_->table().sample(device_->stream(), {.logits = logits.data(),
                                                                    .stride = vocab_,
                                                                    .params = rows,
                                                                    .tokens = tokens_,
                                                                    .rows = static_cast<int>(outputs.size()),
                                                                    .vocab = vocab_,
                                                                    .masks = wants.masks ? masks_ : nullptr,
                                                                    .biases = wants.biases ? biases_ : nullptr,
                                                                    .counts = wants.counts ? counts_ : nullptr,
                                                                    .logprobs = wants.logprobs ? logprobs_ : nullptr}));
  if (wants.counts) SHOAL_RETURN_IF_ERROR(CountSampled(outputs));
  return Sampled{{tokens_, outputs.size()}, wants.logprobs ? logprobs_ : nullptr};
}

}  // namespace shoal::sampling
