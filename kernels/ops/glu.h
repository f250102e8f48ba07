// y[t, i] = act(gate[t, i]) * up[t, i], or act(gate[t, i]) alone                     (Shazeer, arXiv 2002.05202)
// act: SiLU x / (1 + exp(-x)), GELU x * Phi(x) (Hendrycks & Gimpel, arXiv 1606.08415), or GELU in its tanh form.
#pragma once

#include "absl/status/status.h"
#include "kernels/ops/acts.h"
#include "kernels/ops/stream.h"

namespace shoal::ops {

enum class Activation : uint8_t { kSilu, kGeluTanh, kGelu };

struct GluArgs {
  ConstActs gate;  // [tokens, dim], contiguous
  ConstActs up;    // [tokens, dim], contiguous; null: no product
  Acts y;          // [tokens, dim]; may alias gate or up
  int tokens;
  int dim;
  Activation activation;
};
using GluFn = absl::Status (*)(Stream&, const GluArgs&);

}  // namespace shoal::ops
