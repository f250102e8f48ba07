// One token per row from its logits. temperature 0: the largest logit, the lowest id among equals. Otherwise, in this
// order:
//   p = softmax(logits / temperature)                     keep the top_k largest (0: all; ties: lower id first),
//   renormalise keep the smallest prefix, by falling p, whose sum reaches top_p (1: all)          drop p < min_p *
//   max(p) renormalise; the token is the first, by falling p (ties: lower id first), where the running sum exceeds
//   `uniform`.
// Sums in double. A row with a NaN or +Inf, or without any finite logit, gives token -1; -Inf forbids a token.
// A row whose top_k is negative is padding: its logits are not read, its token is -1.
#pragma once

#include "absl/status/status.h"
#include "kernels/ops/stream.h"

namespace shoal::ops {

struct SampleRow {
  float temperature = 0;
  int32_t top_k = 0;  // -1: padding
  float top_p = 1;
  float min_p = 0;
  float uniform = 0;  // in [0, 1): common/base/rng.h SamplingUniform
};
struct SampleArgs {
  const float* logits;  // [rows, vocab], row stride in floats
  int64_t stride;
  const SampleRow* params;  // [rows]
  int32_t* tokens;          // [rows], out
  int rows;
  int vocab;
};
using SampleFn = absl::Status (*)(Stream&, const SampleArgs&);

}  // namespace shoal::ops
