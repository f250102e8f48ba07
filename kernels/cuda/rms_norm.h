// kernels/ops/rms_norm.h on a device.
//   x[t, :] = bf16(x[t, :] + add[t, :])                                            when add is set
//   y[t, :] = bf16(x[t, :] / sqrt(mean(x[t, :]^2) + eps) * (w + weight_bias))      sums in f32
// A row's result depends on the row alone: one block has it, with as many threads as its width asks for, or, to 256
// elements, some lanes of a warp.
#pragma once

#include "kernels/cuda/lang.h"

namespace shoal::cuda {

struct RmsNorm {
  bf16* x;          // [tokens, dim]; written only when add != nullptr, or as y
  const bf16* add;  // [tokens, dim] or null; must not alias x
  const float* w;   // [dim]; null: no output is wanted, only the join
  bf16* y;          // [tokens, dim]; may be x, which then keeps the norm alone; must not alias add
  int tokens;
  int dim;  // a multiple of 8; rows are 16-byte aligned
  float eps;
  float weight_bias;
};
absl::Status Enqueue(DeviceStream stream, const RmsNorm& op);

}  // namespace shoal::cuda
