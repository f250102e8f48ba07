// kernels/ops/sample.h on a device: the reference's token, unless the draw, or a cut, lies so close to a border between
// two tokens that rounding each weight to 2^-41 of the largest moves it across: about 1e-10 of the sum, at most 6e-8
// (2^18 weights all rounded one way). Sums are of integers, so a row's token depends on the row alone, and not on
// threads or their order. Log-probabilities are off by 6e-8 at most, and their rounding.
#pragma once

#include "kernels/cuda/lang.h"
#include "kernels/ops/sample.h"

namespace shoal::cuda {

inline constexpr int kMaxSampledVocab = 1 << 18;

// All arrays on the device. Rows that begin on borders of 16 bytes are read faster.
absl::Status Enqueue(DeviceStream stream, const ops::SampleArgs& op);

}  // namespace shoal::cuda
