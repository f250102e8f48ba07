// x[t, :] += add[t, :]                                                        (when add is set: the residual join)
// y[t, :] = (x[t, :] - mean) / sqrt(variance + eps) * w + bias                Ba, Kiros & Hinton, arXiv 1607.06450
// with mean = mean(x[t, :]) and variance = mean((x[t, :] - mean)^2).
#pragma once

#include "absl/status/status.h"
#include "kernels/ops/acts.h"
#include "kernels/ops/stream.h"

namespace shoal::ops {

struct LayerNormArgs {
  Acts x;             // [tokens, dim]; written only when add != nullptr, or as y
  ConstActs add;      // [tokens, dim] or null; must not alias x
  const float* w;     // [dim]; null: no output is wanted, only the join
  const float* bias;  // [dim] or null: 0
  Acts y;             // [tokens, dim]; may be x, which then keeps the norm alone; must not alias add
  int tokens;
  int dim;
  float eps;
};
using LayerNormFn = absl::Status (*)(Stream&, const LayerNormArgs&);

}  // namespace shoal::ops
