// kernels/ops/dummy_matrix.h on a device: the bytes that PackLinear makes of the same rows (linear_layout.h), to the
// bit, its rows of zeros included. Columns of types of one byte, too, are in whole blocks of 32.
#pragma once

#include "kernels/cuda/lang.h"
#include "kernels/ops/dummy_matrix.h"

namespace shoal::cuda {

absl::Status Enqueue(DeviceStream stream, const ops::DummyMatrixArgs& op);

}  // namespace shoal::cuda
