// cache.k[dst block] = cache.k[src block], and the same for v, for each pair, in order. Copy-on-write of shared blocks.
#pragma once

#include "absl/status/status.h"
#include "kernels/ops/kv_cache.h"
#include "kernels/ops/stream.h"

namespace shoal::ops {

struct BlockPair {
  int32_t src, dst;
};
struct CopyBlocksArgs {
  KvLayer cache;
  const BlockPair* pairs;
  int pair_count;
};
using CopyBlocksFn = absl::Status (*)(Stream&, const CopyBlocksArgs&);

}  // namespace shoal::ops
