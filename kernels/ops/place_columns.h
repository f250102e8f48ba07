// A rank's columns of a matrix, put where they belong in the whole one:
//   y[i, 0..width) = x[i, 0..width)       rows of y are `stride` apart, those of x lie one after the other
#pragma once

#include "absl/status/status.h"
#include "kernels/ops/stream.h"

namespace shoal::ops {

struct PlaceColumnsArgs {
  const float* x;  // [rows, width], contiguous
  float* y;        // the first of the columns; must not overlap x
  int64_t stride;  // elements
  int rows;
  int width;
};
using PlaceColumnsFn = absl::Status (*)(Stream&, const PlaceColumnsArgs&);

// Of every backend whose memory is the host's.
absl::Status PlaceColumnsOnHost(Stream& stream, const PlaceColumnsArgs& args);

}  // namespace shoal::ops
