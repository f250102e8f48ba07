// y[i, :] = x[rows[i], :], zeros when rows[i] is -1 (padding): the rows of a batch that want logits.
#pragma once

#include "kernels/cuda/lang.h"

namespace shoal::cuda {

struct GatherRows {
  const bf16* x;        // [any, dim], contiguous
  const int32_t* rows;  // [count], on the device
  bf16* y;              // [count, dim], contiguous; must not alias x
  int count;
  int dim;  // a multiple of 8; rows are 16-byte aligned
};
absl::Status Enqueue(DeviceStream stream, const GatherRows& op);

}  // namespace shoal::cuda
