// kernels/ops/place_columns.h on a device: a rank's logits, put beside those of the others.
//   y[i, 0..width) = x[i, 0..width)
#pragma once

#include "kernels/cuda/lang.h"

namespace shoal::cuda {

struct PlaceColumns {
  const float* x;  // [rows, width], contiguous
  float* y;        // rows `stride` apart; must not overlap x
  int64_t stride;
  int rows;
  int width;
};
absl::Status Enqueue(DeviceStream stream, const PlaceColumns& op);

}  // namespace shoal::cuda
