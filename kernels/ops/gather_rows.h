// y[i, :] = x[rows[i], :]
#pragma once

#include "absl/status/status.h"
#include "kernels/ops/acts.h"
#include "kernels/ops/stream.h"

namespace shoal::ops {

struct GatherRowsArgs {
  ConstActs x;          // [any, dim], contiguous
  const int32_t* rows;  // [count]
  Acts y;               // [count, dim], contiguous; must not alias x
  int count;
  int dim;
};
using GatherRowsFn = absl::Status (*)(Stream&, const GatherRowsArgs&);

// f32 in host memory, on the caller's thread.
absl::Status GatherRowsOnHost(Stream& stream, const GatherRowsArgs& args);

}  // namespace shoal::ops
