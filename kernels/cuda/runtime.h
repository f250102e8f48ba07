// The accelerator that a CUDA device is.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/ops/accelerator.h"
#include "kernels/ops/numerics.h"

namespace shoal::cuda {

// CudaPlugin::open (kernels/ops/cuda_plugin.h). The thread that calls one of its functions, but for Free*(), has the
// device for its current one from then on, which launching ops on the stream needs.
absl::StatusOr<std::unique_ptr<ops::Accelerator>> OpenDevice(int index,
                                                             ops::Numerics numerics = ops::Numerics::kInvariant);

// Has every kernel loaded when its module is, unless the environment says otherwise; before the first call of CUDA.
// Loaded at its first launch, a kernel waits until the device is idle and is no part of a captured graph's recording.
void LoadKernelsEagerly();

}  // namespace shoal::cuda
