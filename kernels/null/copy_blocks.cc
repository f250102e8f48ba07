// Tested by tests/kernels/null_test.cc
#include "kernels/ops/copy_blocks.h"

#include <cstring>

#include "kernels/null/null.h"

namespace shoal::ops::null {

absl::Status CopyBlocks(Stream& stream, const CopyBlocksArgs& a) {
  const KvLayer& c = a.cache;
  const size_t bytes = RowBytes(c.dtype, static_cast<int64_t>(c.kv_heads) * c.block_size * c.head_dim);
  for (int i = 0; i < a.pair_count; ++i) {
    const size_t src = bytes * static_cast<size_t>(a.pairs[i].src), dst = bytes * static_cast<size_t>(a.pairs[i].dst);
    for (void* cache : {c.k, c.v})
      std::memmove(static_cast<char*>(cache) + dst, static_cast<char*>(cache) + src, bytes);
  }
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops::null
