// Tested by tests/kernels/row_ops_test.cc
#include "kernels/ops/copy_blocks.h"

#include <cstring>

#include "kernels/cpu/cpu.h"

namespace shoal::ops::cpu {

// A task is one head of K or V, for all pairs in order: the order holds within every byte.
absl::Status CopyBlocks(Stream& stream, const CopyBlocksArgs& a) {
  const KvLayer& c = a.cache;
  const size_t head_bytes = RowBytes(c.dtype, static_cast<int64_t>(c.block_size) * c.head_dim);
  ParallelFor(stream, 2 * c.kv_heads, [&](int task) {
    auto* cache = static_cast<char*>(task % 2 == 0 ? c.k : c.v);
    const auto head = static_cast<size_t>(task / 2), heads = static_cast<size_t>(c.kv_heads);
    for (int i = 0; i < a.pair_count; ++i) {
      const auto src = static_cast<size_t>(a.pairs[i].src), dst = static_cast<size_t>(a.pairs[i].dst);
      std::memmove(cache + (dst * heads + head) * head_bytes, cache + (src * heads + head) * head_bytes, head_bytes);
    }
  });
  return absl::OkStatus();
}

}  // namespace shoal::ops::cpu
