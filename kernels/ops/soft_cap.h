// y[i] = cap * tanh(scale * y[i] / cap), or scale * y[i] without a cap, in place: of logits, before anything reads
// them.
#pragma once

#include "absl/status/status.h"
#include "kernels/ops/stream.h"

namespace shoal::ops {

struct SoftCapArgs {
  float* y;  // [count]
  int64_t count;
  float scale;
  float cap;  // 0: none
};
using SoftCapFn = absl::Status (*)(Stream&, const SoftCapArgs&);

}  // namespace shoal::ops
