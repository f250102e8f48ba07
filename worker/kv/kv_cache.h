// A rank's paged KV cache: one memory region owned by the agent, viewed per layer. The coordinator owns which block
// belongs to whom; here are only addresses.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/model/model_config.h"
#include "common/plan/shard_plan.h"
#include "kernels/ops/kv_cache.h"

namespace shoal::kv {

struct KvShape {
  int layers = 0;    // of this rank
  int kv_heads = 0;  // of this rank
  int head_dim = 0;
  int block_size = 0;
  int blocks = 0;
  DType dtype = DType::kF16;
};
KvShape MakeKvShape(const plan::RankShard& shard, const model::ModelConfig& config, DType dtype, int block_size,
                    int blocks);

// K and V of all layers of one block.
int64_t BytesPerBlock(const KvShape& shape);
int64_t RegionBytes(const KvShape& shape);

// Views into a region of at least RegionBytes, 64-byte aligned, which must outlive them.
std::vector<ops::KvLayer> MakeLayers(const KvShape& shape, std::span<std::byte> region);

}  // namespace shoal::kv
