// Tested by: tests/kernels/cuda/copy_blocks_test.cc
// A thread has the same 16 bytes of every block of one buffer and walks over the pairs: what a pair reads of an earlier
// one, the same thread wrote, so the order holds without any wait between threads. Moves 2 * block_bytes per buffer and
// pair. Four pairs go at a time, with their loads in flight together, unless one of them continues another.
#include "kernels/cuda/copy_blocks.h"

namespace shoal::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTogether = 4;

// That none of them reads what an earlier one writes: then all may be read before the first is written.
__device__ bool Apart(const ops::BlockPair (&p)[kTogether]) {
  bool apart = true;
  SHOAL_UNROLL for (int j = 1; j < kTogether; ++j) {
    SHOAL_UNROLL for (int i = 0; i < j; ++i) apart = apart && p[i].dst != p[j].src;
  }
  return apart;
}

__global__ void __launch_bounds__(kThreads) CopyColumns(const CopyBlocks op) {
  const int64_t vectors = op.block_bytes / 16;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= vectors) return;
  uint4* const at = static_cast<uint4*>(op.buffers[blockIdx.y]) + column;
  int i = 0;
  for (; i + kTogether <= op.max_pairs; i += kTogether) {
    ops::BlockPair p[kTogether];
    SHOAL_UNROLL for (int j = 0; j < kTogether; ++j) p[j] = op.pairs[i + j];
    if (p[0].src < 0 || p[1].src < 0 || p[2].src < 0 || p[3].src < 0 || !Apart(p)) {
      SHOAL_UNROLL for (int j = 0; j < kTogether; ++j) {
        if (p[j].src < 0) return;
        at[p[j].dst * vectors] = at[p[j].src * vectors];
      }
      continue;
    }
    uint4 v[kTogether];
    SHOAL_UNROLL for (int j = 0; j < kTogether; ++j) v[j] = at[p[j].src * vectors];
    SHOAL_UNROLL for (int j = 0; j < kTogether; ++j) at[p[j].dst * vectors] = v[j];
  }
  for (; i < op.max_pairs; ++i) {
    const ops::BlockPair p = op.pairs[i];
    if (p.src < 0) return;
    at[p.dst * vectors] = at[p.src * vectors];
  }
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const CopyBlocks& op) {
  if (op.max_pairs == 0 || op.buffer_count == 0) return absl::OkStatus();
  if (op.block_bytes <= 0 || op.block_bytes % 16 != 0) {
    return absl::InvalidArgumentError("copy_blocks: a block's bytes are no multiple of 16");
  }
  if (op.buffer_count > 65535) return absl::InvalidArgumentError("copy_blocks: more than 65535 buffers");
  const int64_t vectors = op.block_bytes / 16;
  const LaunchShape shape = {
      dim3{static_cast<unsigned>((vectors + kThreads - 1) / kThreads), static_cast<unsigned>(op.buffer_count)},
      dim3{kThreads}, 0};
  return Launch(stream, "copy_blocks", shape, CopyColumns, op);
}

}  // namespace shoal::cuda
