// kernels/ops/copy_blocks.h on a device, for all layers of a rank in one launch.
//   buffer[dst block] = buffer[src block] for each buffer and each pair, in order: a pair may read what one before
//   wrote
#pragma once

#include "kernels/cuda/lang.h"
#include "kernels/ops/copy_blocks.h"

namespace shoal::cuda {

struct CopyBlocks {
  void* const* buffers;  // [buffer_count], on the device: each layer's K and V, 16-byte aligned
  int buffer_count;
  int64_t block_bytes;          // of one block in one buffer: a multiple of 16
  const ops::BlockPair* pairs;  // [max_pairs], on the device; the first whose src is negative ends the list
  int max_pairs;
};
absl::Status Enqueue(DeviceStream stream, const CopyBlocks& op);

}  // namespace shoal::cuda
