// kernels/ops/layer_norm.h on a device.
//   x[t, :] = bf16(x[t, :] + add[t, :])                                            when add is set
//   y[t, :] = bf16((x[t, :] - mean) / sqrt(variance + eps) * w + bias)             sums in f32
// A row's result depends on the row alone: one block has it, with as many threads as its width asks for.
#pragma once

#include "kernels/cuda/lang.h"

namespace shoal::cuda {

struct LayerNorm {
  bf16* x;            // [tokens, dim]; written only when add != nullptr, or as y
  const bf16* add;    // [tokens, dim] or null; must not alias x
  const float* w;     // [dim]; null: no output is wanted, only the join
  const float* bias;  // [dim] or null: 0
  bf16* y;            // [tokens, dim]; may be x, which then keeps the norm alone; must not alias add
  int tokens;
  int dim;  // a multiple of 8; rows are 16-byte aligned
  float eps;
};
absl::Status Enqueue(DeviceStream stream, const LayerNorm& op);

}  // namespace shoal::cuda
