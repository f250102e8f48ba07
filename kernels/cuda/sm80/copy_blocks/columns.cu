// Tested by: tests/kernels/cuda/copy_blocks_test.cc
// A thread has the same 16 bytes of every block of K or of V and walks over the pairs: what a pair reads of an earlier
// one, the same thread wrote, so the order holds without any wait between threads. Moves 4 * block_bytes per pair. Four
// pairs go at a time, with their loads in flight together, unless one of them continues another.
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

// `vectors`: of 16 bytes in a block.
__global__ void __launch_bounds__(kThreads) CopyColumns(const ops::CopyBlocksArgs op, const int64_t vectors) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= vectors) return;
  uint4* const at = static_cast<uint4*>(blockIdx.y == 0 ? op.cache.k : op.cache.v) + column;
  int i = 0;
  for (; i + kTogether <= op.pair_count; i += kTogether) {
    ops::BlockPair p[kTogether];
    SHOAL_UNROLL for (int j = 0; j < kTogether; ++j) p[j] = op.pairs[i + j];
    if (!Apart(p)) {
      SHOAL_UNROLL for (int j = 0; j < kTogether; ++j) at[p[j].dst * vectors] = at[p[j].src * vectors];
      continue;
    }
    uint4 v[kTogether];
    SHOAL_UNROLL for (int j = 0; j < kTogether; ++j) v[j] = at[p[j].src * vectors];
    SHOAL_UNROLL for (int j = 0; j < kTogether; ++j) at[p[j].dst * vectors] = v[j];
  }
  for (; i < op.pair_count; ++i) {
    const ops::BlockPair p = op.pairs[i];
    at[p.dst * vectors] = at[p.src * vectors];
  }
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const ops::CopyBlocksArgs& op) {
  if (op.pair_count == 0) return absl::OkStatus();
  const ops::KvLayer& c = op.cache;
  const size_t block_bytes = RowBytes(c.dtype, int64_t{c.kv_heads} * c.block_size * c.head_dim);
  if (block_bytes == 0 || block_bytes % 16 != 0) {
    return absl::InvalidArgumentError("copy_blocks: a block's bytes are no multiple of 16");
  }
  const auto vectors = static_cast<int64_t>(block_bytes / 16);
  const LaunchShape shape = {dim3{static_cast<unsigned>((vectors + kThreads - 1) / kThreads), 2}, dim3{kThreads}, 0};
  return Launch(stream, "copy_blocks", shape, CopyColumns, op, vectors);
}

}  // namespace shoal::cuda
