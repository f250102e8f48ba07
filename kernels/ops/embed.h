// x[t, :] = table[id[t] - row_begin, :] * row_scale[..] * scale + add[:] (three roundings in this order; no factor and
// no summand where there is none), or zeros when id[t] is
// outside [row_begin, row_begin + table.n) (a vocabulary shard: summing over the shards then gives the row, exactly).
#pragma once

#include "absl/status/status.h"
#include "kernels/ops/acts.h"
#include "kernels/ops/stream.h"
#include "kernels/ops/weight.h"

namespace shoal::ops {

struct EmbedArgs {
  Weight table;        // [vocab rows of this shard, dim]
  const int32_t* ids;  // [tokens]
  int32_t row_begin;
  float scale;
  Acts x;  // [tokens, dim], contiguous
  int tokens;
  const float* add = nullptr;  // [dim]
};
using EmbedFn = absl::Status (*)(Stream&, const EmbedArgs&);

}  // namespace shoal::ops
