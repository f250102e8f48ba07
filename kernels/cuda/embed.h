// kernels/ops/embed.h on a device.
//   x[t, :] = bf16(table[ids[t] - row_begin, :] * row_scale[..] * scale + add[:]), zeros when ids[t] is outside
//   [row_begin, row_begin + table.n)
// The table is as PackLinear leaves it (linear.h), so that one which is the head too is held once. Defined to the bit.
#pragma once

#include "kernels/cuda/lang.h"
#include "kernels/ops/weight.h"

namespace shoal::cuda {

struct Embed {
  ops::Weight table;   // [vocabulary rows of this shard, dim]; dim a multiple of 8, data 16-byte aligned
  const int32_t* ids;  // [tokens], on the device
  int32_t row_begin;
  float scale;
  bf16* x;  // [tokens, dim], contiguous
  int tokens;
  const float* add;  // [dim] or null
};
absl::Status Enqueue(DeviceStream stream, const Embed& op);

}  // namespace shoal::cuda
