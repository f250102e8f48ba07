// kernels/ops/sample.h on a device: the reference's token, unless the draw, or a cut, lies so close to a border between
// two tokens that rounding each weight to 2^-39 of the largest moves it across: about 1e-9 of the sum, at most 5e-7
// (2^19 weights all rounded one way). Sums are of integers, so a row's token depends on the row alone, and not on
// threads or their order. Log-probabilities are off by 5e-7 at most, and their rounding.
#pragma once

#include "kernels/cuda/lang.h"
#include "kernels/ops/sample.h"

namespace shoal::cuda {

inline constexpr int kMaxSampledVocab = (1 << 19) - 1;

// All arrays on the device. Rows that begin on borders of 16 bytes are read faster.
absl::Status Enqueue(DeviceStream stream, const ops::SampleArgs& op);

}  // namespace shoal::cuda
