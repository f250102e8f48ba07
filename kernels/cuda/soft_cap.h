// kernels/ops/soft_cap.h on a device, in f32.
#pragma once

#include "kernels/cuda/lang.h"
#include "kernels/ops/soft_cap.h"

namespace shoal::cuda {

// InvalidArgument: more elements than a grid has.
absl::Status Enqueue(DeviceStream stream, const ops::SoftCapArgs& op);

}  // namespace shoal::cuda
