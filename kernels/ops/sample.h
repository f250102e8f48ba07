// One token per row from its logits, in this order:
//   forbid    ids whose bit in the row's mask is 0: a finite logit is made -Inf
//   bias      logit += its bias, in f32, of the row's ids that have one
//   penalise  ids that the sequence has (token_counts.h), by its counts c of them, in f32, in the order of vLLM:
//               in the prompt or generated:  logit = logit > 0 ? logit / repetition : logit * repetition
//               generated:                   logit = logit - frequency * (c & kMostGenerated) - presence
//   choose    temperature 0: the largest logit, the lowest id among equals. Otherwise, of
//             p = softmax(logits / temperature), keep the top_k largest (0: all; ties: lower id first), renormalise;
//             keep the smallest prefix, by falling p, whose sum reaches top_p (1: all); drop p < min_p * max(p),
//             renormalise; the token is the first, by falling p (ties: lower id first), where the running sum exceeds
//             `uniform`.
// Sums in double. Logits are not written. A row that then has a NaN or +Inf (also at an id that is forbidden), or
// nothing finite (everything is forbidden), gives token -1. A row whose top_k is negative is padding: its logits are
// not read, its token is -1. A row that is forced gives that token, whatever its logits say: for its log-probabilities.
//
// Log-probabilities are those of the logits as they came, before mask, biases, penalties and temperature (vLLM's
// default, raw_logprobs): logit - log(sum of e^logit), in double, rounded to f32. A row with token -1, or forced where
// its logits have a NaN or +Inf or nothing finite, has none: -Inf, rank 0, no top ids.
#pragma once

#include "absl/status/status.h"
#include "common/base/host_device.h"
#include "kernels/ops/stream.h"

namespace shoal::ops {

inline constexpr int kMaxTopLogprobs = 20;
SHOAL_HD constexpr int64_t MaskWords(int vocab) { return (int64_t{vocab} + 31) / 32; }

struct SampleRow {
  float temperature = 0;
  int32_t top_k = 0;  // -1: padding
  float top_p = 1;
  float min_p = 0;
  float uniform = 0;                                  // in [0, 1): common/base/rng.h SamplingUniform
  float repetition = 1, presence = 0, frequency = 0;  // penalties (repetition above 0); as here: none
  int32_t place = -1;                                 // its sequence's row of `counts`; -1: no penalties
  int32_t mask = -1;                                  // its row of `masks`; -1: all ids are allowed
  int32_t bias_first = 0, bias_count = 0;             // its part of `biases`, by ascending id
  int32_t forced = -1;                                // the token that it gives; -1: it is not forced
  int32_t logprobs = -1;                              // how many top ids, at most kMaxTopLogprobs; -1: nothing
};
// Whether its counts change anything.
SHOAL_HD constexpr bool IsPenalised(const SampleRow& row) {
  return row.place >= 0 && (row.repetition != 1 || row.presence != 0 || row.frequency != 0);
}
struct SampleBias {
  int32_t id;  // in [0, vocab)
  float bias;
};
struct SampleLogprobs {
  float logprob;                        // of the token
  int32_t rank;                         // of the token: 1 for the largest logit; ties: lower id first
  int32_t top_ids[kMaxTopLogprobs];     // the first by falling logit (ties: lower id first): as many as the row
  float top_logprobs[kMaxTopLogprobs];  // wants and have a logit above -Inf; behind them -1 and -Inf
};
struct SampleArgs {
  const float* logits;  // [rows, vocab], row stride in floats
  int64_t stride;
  const SampleRow* params;  // [rows]
  int32_t* tokens;          // [rows], out
  int rows;
  int vocab;
  const uint32_t* masks = nullptr;  // [.., MaskWords(vocab)]: id i is bit i % 32 of word i / 32; null: no row has one
  const SampleBias* biases = nullptr;  // of all rows; null: no row has one
  const uint16_t* counts = nullptr;    // [places, CountsStride(vocab)]; null: no row is penalised
  SampleLogprobs* logprobs = nullptr;  // [rows], out, of rows that want them
};
using SampleFn = absl::Status (*)(Stream&, const SampleArgs&);

}  // namespace shoal::ops
