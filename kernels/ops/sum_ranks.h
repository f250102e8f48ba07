// What the ranks of a stage bring to a sum, added up in their order, so that every rank and every algorithm has the
// same bits:
//   y[i] = ((x_0[i] + x_1[i]) + x_2[i]) + ...        in f32, rounded once to the type of activations
#pragma once

#include "absl/status/status.h"
#include "kernels/ops/acts.h"
#include "kernels/ops/stream.h"

namespace shoal::ops {

struct SumRanksArgs {
  ConstActs parts;  // x_r[i] is element r * stride + i
  int64_t stride;   // elements, at least count
  int ranks;
  Acts y;  // [count]; not within parts
  int64_t count;
};
using SumRanksFn = absl::Status (*)(Stream&, const SumRanksArgs&);

// Of every backend whose memory is the host's and whose activations are f32.
absl::Status SumRanksOnHost(Stream& stream, const SumRanksArgs& args);

}  // namespace shoal::ops
