// x[t, :] += add[t, :]                                            (when add is set: the residual join)
// y[t, :] = x[t, :] / sqrt(mean(x[t, :]^2) + eps) * (w + weight_bias)       Zhang & Sennrich, arXiv 1910.07467
#pragma once

#include "absl/status/status.h"
#include "kernels/ops/acts.h"
#include "kernels/ops/stream.h"

namespace shoal::ops {

struct RmsNormArgs {
  Acts x;          // [tokens, dim]; written only when add != nullptr, or as y
  ConstActs add;   // [tokens, dim] or null; must not alias x
  const float* w;  // [dim]; null: no output is wanted, only the join
  Acts y;          // [tokens, dim]; may be x, which then keeps the norm alone; must not alias add
  int tokens;
  int dim;
  float eps;
  float weight_bias;
};
using RmsNormFn = absl::Status (*)(Stream&, const RmsNormArgs&);

}  // namespace shoal::ops
