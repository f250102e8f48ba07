// kernels/ops/gather_ids.h on a device: a row may continue from a sample of a step whose result the host has not seen.
#pragma once

#include "kernels/cuda/lang.h"
#include "kernels/ops/gather_ids.h"

namespace shoal::cuda {

// All arrays on the device.
absl::Status Enqueue(DeviceStream stream, const ops::GatherIdsArgs& op);
absl::Status Enqueue(DeviceStream stream, const ops::ScatterIdsArgs& op);

}  // namespace shoal::cuda
