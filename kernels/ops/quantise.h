// Activations to int8, per token in blocks of 32 at absolute columns, once per layer input:
// d = max|x| / 127;  q = round-half-even(x / d) (0 when d is 0);  scale = d;  sum = d * sum(q) in the block.
#pragma once

#include "absl/status/status.h"
#include "kernels/ops/acts.h"
#include "kernels/ops/stream.h"

namespace shoal::ops {

// k is a multiple of 32. All three are contiguous, 64-byte aligned, owned by the caller.
struct QuantisedActs {
  int8_t* q;     // [tokens, k]
  float* scale;  // [tokens, k / 32]
  float* sum;    // [tokens, k / 32]
};
struct QuantiseArgs {
  ConstActs x;  // [tokens, k], contiguous
  QuantisedActs out;
  int tokens;
  int k;
};
using QuantiseFn = absl::Status (*)(Stream&, const QuantiseArgs&);

}  // namespace shoal::ops
