// kernels/ops/sum_ranks.h on a device.
//   y[i] = bf16(((x_0[i] + x_1[i]) + x_2[i]) + ...), sums in f32
#pragma once

#include "kernels/cuda/lang.h"

namespace shoal::cuda {

// 16 bytes at a time where parts, y and stride allow it, else an element at a time: the same bits.
struct SumRanks {
  const bf16* parts;  // x_r[i] is parts[r * stride + i]
  int64_t stride;
  bf16* y;  // [count]; not within parts
  int64_t count;
  int ranks;
};
absl::Status Enqueue(DeviceStream stream, const SumRanks& op);

}  // namespace shoal::cuda
