// kernels/ops/pool.h on a device: x in bf16, sums and results in f32.
// A sequence's result depends on its rows alone: one block has it.
#pragma once

#include "kernels/cuda/lang.h"
#include "kernels/ops/pool.h"

namespace shoal::cuda {

struct Pool {
  const bf16* x;         // [tokens, dim]
  const int32_t* first;  // [count], on the device
  const int32_t* rows;   // [count], on the device; at least 1
  float* y;              // [count, dim]
  int count;
  int dim;  // a multiple of 8; rows are 16-byte aligned
  ops::Pooling pooling;
  bool normalise;
};
absl::Status Enqueue(DeviceStream stream, const Pool& op);

}  // namespace shoal::cuda
