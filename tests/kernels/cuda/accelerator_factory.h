// The accelerator that a test program or its peer (accelerator_peer.cc) is linked with.
#pragma once

#include <memory>

#include "kernels/ops/accelerator.h"

namespace shoal::cuda {

// Null: there is none here.
std::unique_ptr<ops::Accelerator> MakeTestAccelerator();

}  // namespace shoal::cuda
