// kernels/ops/dummy_matrix.h on a device: the bytes that PackLinear makes of the same rows (linear_layout.h), to the
// bit, its rows of zeros and fp8's factors included. Of types that lie in tiles k is a multiple of 32.
#pragma once

#include "kernels/cuda/lang.h"
#include "kernels/ops/dummy_matrix.h"

namespace shoal::cuda {

absl::Status Enqueue(DeviceStream stream, const ops::DummyMatrixArgs& op);

}  // namespace shoal::cuda
