// y[t, i] = act(gate[t, i]) * up[t, i]        act: SiLU x / (1 + exp(-x)), or GELU in its tanh form (Shazeer, arXiv
// 2002.05202)
#pragma once

#include "absl/status/status.h"
#include "kernels/ops/acts.h"
#include "kernels/ops/stream.h"

namespace shoal::ops {

enum class Activation : uint8_t { kSilu, kGeluTanh };

struct GluArgs {
  ConstActs gate;  // [tokens, dim], contiguous
  ConstActs up;    // [tokens, dim], contiguous
  Acts y;          // [tokens, dim]; may alias gate or up
  int tokens;
  int dim;
  Activation activation;
};
using GluFn = absl::Status (*)(Stream&, const GluArgs&);

}  // namespace shoal::ops
