// kernels/ops/glu.h on a device.
//   y[t, i] = bf16(act(gate[t, i]) * up[t, i]), or bf16(act(gate[t, i])), in f32
#pragma once

#include "kernels/cuda/lang.h"
#include "kernels/ops/glu.h"

namespace shoal::cuda {

// Strides in elements, multiples of 8; rows are 16-byte aligned. gate and up may be the halves of one buffer.
struct Glu {
  const bf16* gate;  // [tokens, dim], row stride in_stride
  const bf16* up;    // the same; null: no product
  int64_t in_stride;
  bf16* y;  // [tokens, dim], row stride y_stride; may be gate or up when the strides are equal
  int64_t y_stride;
  int tokens;
  int dim;  // a multiple of 8
  ops::Activation activation;
};
absl::Status Enqueue(DeviceStream stream, const Glu& op);

}  // namespace shoal::cuda
