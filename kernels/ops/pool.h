// One vector for each sequence of a batch, from its rows: of its first, of its last, or the mean of all (sums in f32,
// in ascending order of rows); then of length 1 (Euclidean, sum in f32) when `normalise`, zeros as they are.
#pragma once

#include "absl/status/status.h"
#include "kernels/ops/acts.h"
#include "kernels/ops/stream.h"

namespace shoal::ops {

enum class Pooling : uint8_t { kFirst, kLast, kMean };

struct PoolArgs {
  ConstActs x;           // [tokens, dim]
  const int32_t* first;  // [count]: a sequence's first row ...
  const int32_t* rows;   // [count]: ... and how many it has, at least 1
  float* y;              // [count, dim]
  int count, dim;
  Pooling pooling;
  bool normalise;
};
using PoolFn = absl::Status (*)(Stream&, const PoolArgs&);

// f32 in host memory.
absl::Status PoolOnHost(Stream& stream, const PoolArgs& args);

}  // namespace shoal::ops
