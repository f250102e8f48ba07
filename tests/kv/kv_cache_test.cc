#include "worker/kv/kv_cache.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <memory>

namespace shoal::kv {
namespace {

TEST(KvCacheTest, ShapeComesFromTheShard) {
  plan::RankShard shard;
  shard.layers = {10, 17};
  shard.kv_heads = {1, 3};
  model::ModelConfig config;
  config.layers = 30;
  config.kv_heads = 3;
  config.head_dim = 64;
  const KvShape shape = MakeKvShape(shard, config, DType::kF16, 16, 100);
  EXPECT_EQ(shape.layers, 7);
  EXPECT_EQ(shape.kv_heads, 2);
  EXPECT_EQ(shape.head_dim, 64);
  EXPECT_EQ(BytesPerBlock(shape), 7 * 2 * 2 * 16 * 64 * 2);
  EXPECT_EQ(RegionBytes(shape), 100 * BytesPerBlock(shape));
}

TEST(KvCacheTest, PlanesOfAllLayersAreDisjointAlignedAndInside) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    // An odd number of blocks of an odd size: planes end between cache lines.
    const KvShape shape = {.layers = 3, .kv_heads = 3, .head_dim = 5, .block_size = 16, .blocks = 7, .dtype = dtype};
    const size_t bytes = RegionBytes(shape);
    const std::unique_ptr<void, decltype(&std::free)> memory(std::aligned_alloc(64, bytes), &std::free);
    auto* region = static_cast<std::byte*>(memory.get());
    const auto layers = MakeLayers(shape, {region, bytes});
    ASSERT_EQ(layers.size(), 3u);

    const size_t plane = static_cast<size_t>(7) * 3 * 16 * 5 * (dtype == DType::kF32 ? 4 : 2);
    std::map<std::byte*, int> begins;
    for (const ops::KvLayer& layer : layers) {
      EXPECT_EQ(layer.dtype, dtype);
      EXPECT_EQ(layer.block_size, 16);
      EXPECT_EQ(layer.kv_heads, 3);
      EXPECT_EQ(layer.head_dim, 5);
      for (void* at : {layer.k, layer.v}) {
        EXPECT_EQ(reinterpret_cast<uintptr_t>(at) % 64, 0u);
        begins[static_cast<std::byte*>(at)]++;
      }
    }
    ASSERT_EQ(begins.size(), 6u);
    std::byte* free_from = region;
    for (const auto& [begin, count] : begins) {
      EXPECT_GE(begin, free_from);
      free_from = begin + plane;
    }
    EXPECT_LE(free_from, region + bytes);
  }
}

}  // namespace
}  // namespace shoal::kv
