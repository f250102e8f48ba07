// Rows with penalties, biases, masks and log-probabilities, and what is to come of them: computed from ops/sample.h a
// second time, without any op, but for the choice among the changed logits, which is the reference's.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/ops/sample.h"

namespace shoal::ops {

struct SampleBatch {
  int vocab = 0, rows = 0;
  std::vector<float> logits = {};       // [rows, vocab]
  std::vector<uint16_t> counts = {};    // [places, CountsStride(vocab)]; empty: the op gets none
  std::vector<uint32_t> masks = {};     // [rows, MaskWords(vocab)]; empty: the op gets none
  std::vector<SampleBias> biases = {};  // of all rows; empty: the op gets none
  std::vector<SampleRow> params = {};   // [rows]; a row has its own mask, or none
  bool logprobs = true;                 // otherwise the op gets nowhere to write them

  // That row alone, with the same counts, masks and biases.
  SampleBatch Row(int row) const;
  // All on the host. `tokens` and `out`: [rows].
  SampleArgs Args(int32_t* tokens, SampleLogprobs* out) const;
};

// Every combination of what a row may ask for, in turn; ids that are likely are also those that were counted or
// forbidden. Row 11 of 12 is padding.
SampleBatch MakeSampleBatch(int vocab, int rows, uint64_t seed);

// Begin as bytes that no result is, so that what was not written shows.
struct SampleResults {
  explicit SampleResults(int rows);
  std::vector<int32_t> tokens;
  std::vector<SampleLogprobs> logprobs;
};
SampleResults ExpectedResults(const SampleBatch& batch);
// One row's logits after mask, biases and penalties.
std::vector<float> ChangedLogits(const SampleBatch& batch, int row);
// `top` of the token's row, whose logits these are.
SampleLogprobs ExpectedLogprobs(const std::vector<float>& logits, int32_t token, int top);

// Ranks and ids are the same; log-probabilities within 1e-6 and their rounding.
void ExpectSameLogprobs(const SampleLogprobs& expected, const SampleLogprobs& actual);
// The tokens, and the log-probabilities of those rows that want them: those of the others are not written.
void ExpectResults(const SampleBatch& batch, const SampleResults& actual);
void ExpectSameBits(const SampleResults& expected, const SampleResults& actual);

}  // namespace shoal::ops
