// kernels/ops/place_columns.h on a device: a rank's logits, put beside those of the others.
#pragma once

#include "kernels/cuda/lang.h"
#include "kernels/ops/place_columns.h"

namespace shoal::cuda {

// InvalidArgument: more columns than a grid has.
absl::Status Enqueue(DeviceStream stream, const ops::PlaceColumnsArgs& op);

}  // namespace shoal::cuda
