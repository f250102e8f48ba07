#include "worker/kv/kv_cache.h"

#include "common/base/check.h"

namespace shoal::kv {
namespace {

constexpr int64_t kAlign = 64;

// K (or V) of one block of one layer.
int64_t PlaneBytesPerBlock(const KvShape& s) {
  return static_cast<int64_t>(RowBytes(s.dtype, static_cast<int64_t>(s.kv_heads) * s.block_size * s.head_dim));
}

// K (or V) of all blocks of one layer, on a 64-byte border.
int64_t PlaneBytes(const KvShape& s) { return (PlaneBytesPerBlock(s) * s.blocks + kAlign - 1) / kAlign * kAlign; }

}  // namespace

KvShape MakeKvShape(const plan::RankShard& shard, const model::ModelConfig& config, DType dtype, int block_size,
                    int blocks) {
  return {.layers = shard.layers.size(),
          .kv_heads = shard.kv_heads.size(),
          .head_dim = config.head_dim,
          .block_size = block_size,
          .blocks = blocks,
          .dtype = dtype};
}

int64_t BytesPerBlock(const KvShape& shape) { return 2 * shape.layers * PlaneBytesPerBlock(shape); }

int64_t RegionBytes(const KvShape& shape) { return 2 * shape.layers * PlaneBytes(shape); }

std::vector<ops::KvLayer> MakeLayers(const KvShape& shape, std::span<std::byte> region) {
  SHOAL_CHECK(static_cast<int64_t>(region.size()) >= RegionBytes(shape));
  SHOAL_CHECK(reinterpret_cast<uintptr_t>(region.data()) % kAlign == 0);
  std::vector<ops::KvLayer> layers(shape.layers);
  std::byte* at = region.data();
  for (ops::KvLayer& layer : layers) {
    layer = {.k = at,
             .v = at + PlaneBytes(shape),
             .dtype = shape.dtype,
             .block_size = shape.block_size,
             .kv_heads = shape.kv_heads,
             .head_dim = shape.head_dim};
    at += 2 * PlaneBytes(shape);
  }
  return layers;
}

}  // namespace shoal::kv
