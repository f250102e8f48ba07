// kernels/ops/copy_blocks.h on a device, with the pairs in its memory: a pair may read what one before wrote.
#pragma once

#include "kernels/cuda/lang.h"
#include "kernels/ops/copy_blocks.h"

namespace shoal::cuda {

// K and V are 16-byte aligned, a block a multiple of 16 bytes.
absl::Status Enqueue(DeviceStream stream, const ops::CopyBlocksArgs& op);

}  // namespace shoal::cuda
