// From the logits that a plan wants to tokens and log-probabilities: what the sampling rank adds to the kernels. What
// comes of a row is a pure function of (parameters, tokens): token counts, masks and biases lie on the device for as
// long as a sequence has its place there, and are made anew from its start when the place changes hands.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/plan/plan_check.h"
#include "kernels/ops/sample.h"
#include "worker/device/device.h"
#include "worker/sampling/mask_source.h"

namespace shoal::sampling {

// What one row of logits is for.
struct Output {
  const plan::MirroredSequence* sequence = nullptr;
  int32_t position = 0;  // of the token that they are about
  int32_t place = 0;     // of the sequence on the device; another `owner` says that it has changed hands
  uint64_t owner = 0;    // never 0
  int32_t forced = -1;   // that token, when it is known; -1: it is sampled
};

// The random number is keyed by (seed, choice, position, draw 0). Mask, biases and counts are at the sequence's place.
ops::SampleRow MakeRow(const Output& output);

struct Sampled {
  std::span<const int32_t> tokens;                // [outputs]; -1 where a row has no finite logit
  const ops::SampleLogprobs* logprobs = nullptr;  // [outputs], of those that want them
};

// One thread.
class Sampler {
 public:
  // ResourceExhausted: no memory for `max_rows` outputs at once, of as many sequences.
  static absl::StatusOr<Sampler> Create(device::Device* device, int max_rows, int vocab);
  // Of device memory that Create takes.
  static int64_t Bytes(int max_rows, int vocab);

  // Whether the mask of an output depends on a token before it that its sequence does not know yet.
  bool LacksTokens(std::span<const Output> outputs);
  // Enqueues everything for outputs that lack no tokens: those that are sampled first, then those that are forced.
  // `logits` [outputs, vocab] (or more) and `rows` [outputs], with what MakeRow says of each, are in device memory.
  // Results lie there until the next call.
  absl::StatusOr<Sampled> Sample(std::span<const float> logits, const ops::SampleRow* rows,
                                 std::span<const Output> outputs);

 private:
  // What lies at a place, and for which owner.
  struct Place {
    uint64_t counts_of = 0, biases_of = 0, mask_of = 0;
    std::unique_ptr<MaskSource> source;
    std::vector<uint32_t> mask;
  };
  // Arrays of what the rows of a step want: none of them, no argument, and ops are as fast as without.
  struct Wants {
    bool masks = false, biases = false, counts = false, logprobs = false;
  };

  Sampler(device::Device* device, int max_rows, int vocab);
  MaskSource* SourceOf(const Output& output);
  absl::Status PutMask(const Output& output);
  absl::Status PutBiases(const Output& output);
  absl::StatusOr<Wants> Prepare(std::span<const Output> outputs);
  absl::Status StartCounts(const Output& output);
  absl::Status Count(std::span<const int32_t> tokens, int32_t place, bool in_prompt);
  absl::Status CountSampled(std::span<const Output> outputs);

  device::Device* device_;
  int vocab_;
  std::vector<Place> places_;       // [max_rows]
  std::vector<int32_t> on_host_;    // places on their way to the device
  device::Memory memory_;           // of all that follow
  ops::SampleLogprobs* logprobs_;   // [max_rows]
  ops::SampleBias* biases_;         // [places, kMaxTokenBiases]
  uint16_t* counts_;                // [places, CountsStride(vocab)]
  uint32_t* masks_;                 // [places, MaskWords(vocab)]
  int32_t* tokens_;                 // [max_rows]
  int32_t *chunk_, *chunk_places_;  // [kChunk]: tokens to be counted, and where; places of a step's samples
};

}  // namespace shoal::sampling
