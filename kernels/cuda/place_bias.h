// y[t, n] = bias[n] in y's type, for a product that is added to it (fast_matmul.cu).
#pragma once

#include "kernels/cuda/lang.h"

namespace shoal::cuda {

struct PlaceBias {
  const float* bias;  // [n]
  void* y;            // [tokens, n], f32 or bf16
  bool f32_out;       // y is f32
  int64_t y_stride;   // in elements, at least n
  int tokens, n;
};
// InvalidArgument: more columns than a grid has.
absl::Status Enqueue(DeviceStream stream, const PlaceBias& op);

}  // namespace shoal::cuda
