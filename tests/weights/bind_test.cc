#include <gtest/gtest.h>

#include <cstring>

#include "kernels/ops/backends.h"
#include "tests/weights/shards.h"
#include "worker/weights/region.h"

namespace shoal::weights {
namespace {

const ops::OpTable& Ref() { return **ops::FindOpTable("ref"); }

absl::StatusCode BindCode(const Region& region, const model::ModelConfig& config, const plan::RankShard& shard,
                          const ops::OpTable& table = Ref()) {
  return Bind(region.bytes(), config, shard, table).status().code();
}

std::vector<ops::Weight> MatricesOf(const ModelWeights& weights) {
  std::vector<ops::Weight> all = {weights.embedding, weights.head};
  for (const LayerWeights& w : weights.layers) all.insert(all.end(), {w.q, w.k, w.v, w.o, w.gate, w.up, w.down});
  return all;
}

TEST(Bind, GivesTheDecoderItsShapes) {
  const model::ModelFiles files = OpenTiny({});
  const std::vector<LoadedRank> ranks = LoadAll(files.config, *files.checkpoint, Ref(), 2, 2);
  const ModelWeights& first = ranks[0].weights;
  const ModelWeights& last = ranks[3].weights;
  ASSERT_EQ(first.layers.size(), 1u);
  EXPECT_EQ(first.layers[0].q.n, 64);
  EXPECT_EQ(first.layers[0].q.k, 64);
  EXPECT_EQ(first.layers[0].k.n, 32);
  EXPECT_EQ(first.layers[0].o.n, 64);
  EXPECT_EQ(first.layers[0].o.k, 64);
  EXPECT_EQ(first.layers[0].gate.n + ranks[1].weights.layers[0].gate.n, 96);
  EXPECT_EQ(first.layers[0].down.k, first.layers[0].up.n);
  EXPECT_NE(first.embedding.data, nullptr);
  EXPECT_EQ(first.head.data, nullptr);
  EXPECT_EQ(first.final_norm.weight, nullptr);
  EXPECT_EQ(last.embedding.data, nullptr);
  EXPECT_NE(last.head.data, nullptr);
  EXPECT_NE(last.final_norm.weight, nullptr);
  EXPECT_EQ(first.embedding.n + ranks[1].weights.embedding.n, 288);
  const auto whole = LoadAll(files.config, *files.checkpoint, Ref(), 1, 1);
  EXPECT_EQ(whole[0].weights.head.data, whole[0].weights.embedding.data) << "tied, and on one stage: held once";
}

// Of memory that the host cannot read, the directory is copied, and nothing else.
TEST(Bind, ReadsTheDirectoryAloneOfADevicesMemory) {
  const model::ModelFiles files = OpenTiny({});
  const std::vector<LoadedRank> ranks = LoadAll(files.config, *files.checkpoint, Ref(), 2, 2);
  const LoadedRank& rank = ranks[1];
  const auto region = rank.region->bytes();
  const std::byte* const first_tensor = region.data() + rank.layout.items[0].offset;
  int64_t copied = 0;
  const auto read = [&](void* to, const std::byte* from, size_t bytes) {
    EXPECT_LE(from + bytes, first_tensor);
    std::memcpy(to, from, bytes);
    copied += static_cast<int64_t>(bytes);
    return absl::OkStatus();
  };
  const auto bound = Bind(region, read, files.config, rank.shard, Ref());
  ASSERT_TRUE(bound.ok()) << bound.status();
  EXPECT_GT(copied, 0);
  const auto expected = MatricesOf(rank.weights), got = MatricesOf(*bound);
  ASSERT_EQ(expected.size(), got.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(expected[i].data, got[i].data) << i;
  const auto broken = [](void*, const std::byte*, size_t) { return absl::InternalError("the device is gone"); };
  EXPECT_EQ(Bind(region, broken, files.config, rank.shard, Ref()).status().code(), absl::StatusCode::kInternal);
}

TEST(Bind, FindsTheScalesOfRows) {
  const model::ModelFiles files = OpenTiny({.matrices = DType::kF8E4M3, .embedding = DType::kI8});
  const auto ranks = LoadAll(files.config, *files.checkpoint, Ref(), 2, 1);
  for (const LoadedRank& rank : ranks) {
    for (const ops::Weight& w : MatricesOf(rank.weights)) ASSERT_NE(w.row_scale, nullptr);
    EXPECT_EQ(rank.weights.head.row_scale, rank.weights.embedding.row_scale) << "tied";
  }
  // Those of another rank's rows are none of this one's.
  plan::RankShard shard = ranks[0].shard;
  const std::span<std::byte> bytes = ranks[0].region->bytes();
  int scales = 0;
  for (size_t i = 0; i < ranks[0].layout.items.size(); ++i) {
    RegionEntry entry;
    std::byte* at = bytes.data() + sizeof(RegionHeader) + i * sizeof(entry);
    std::memcpy(&entry, at, sizeof(entry));
    if (entry.part != static_cast<uint8_t>(WeightLayout::Part::kRowScale)) continue;
    ++scales;
    ++entry.row_begin, ++entry.row_end;
    std::memcpy(at, &entry, sizeof(entry));
    EXPECT_EQ(BindCode(*ranks[0].region, files.config, shard), absl::StatusCode::kDataLoss);
    --entry.row_begin, --entry.row_end;
    std::memcpy(at, &entry, sizeof(entry));
  }
  EXPECT_EQ(scales, 1 + 2 * 7);
  EXPECT_EQ(BindCode(*ranks[0].region, files.config, shard), absl::StatusCode::kOk);
}

TEST(Bind, RefusesTheRegionOfAnotherShardConfigOrBackend) {
  const model::ModelFiles files = OpenTiny({});
  const std::vector<LoadedRank> ranks = LoadAll(files.config, *files.checkpoint, Ref(), 2, 2);
  for (const LoadedRank& region : ranks) {
    for (const LoadedRank& shard : ranks) {
      const bool own = region.shard.rank == shard.shard.rank;
      EXPECT_EQ(BindCode(*region.region, files.config, shard.shard),
                own ? absl::StatusCode::kOk : absl::StatusCode::kDataLoss);
    }
  }
  model::ModelConfig other = files.config;
  other.hidden += 32;
  EXPECT_EQ(BindCode(*ranks[0].region, other, ranks[0].shard), absl::StatusCode::kDataLoss);
  const ops::OpTable& scalar = **ops::FindOpTable("cpu-scalar");
  EXPECT_EQ(BindCode(*ranks[0].region, files.config, ranks[0].shard, scalar), absl::StatusCode::kDataLoss);
}

TEST(Bind, RefusesWhatIsNoRegion) {
  const model::ModelFiles files = OpenTiny({});
  const plan::RankShard shard = plan::MakeShardPlan(files.config, 1, 1)->ranks[0];
  EXPECT_EQ(BindCode(Region(0), files.config, shard), absl::StatusCode::kDataLoss);
  EXPECT_EQ(BindCode(Region(1 << 16), files.config, shard), absl::StatusCode::kDataLoss);
  const auto loaded = LoadAll(files.config, *files.checkpoint, Ref(), 1, 1);
  const std::span<const std::byte> bytes = loaded[0].region->bytes();
  EXPECT_FALSE(Bind(bytes.first(bytes.size() - 64), files.config, shard, Ref()).ok()) << "cut off";
  EXPECT_FALSE(Bind(bytes.subspan(1), files.config, shard, Ref()).ok()) << "misaligned";
}

// Whatever a byte of the directory says, Bind refuses it or gives tensors that lie inside the region to their end.
TEST(Bind, SurvivesACorruptDirectory) {
  const model::ModelFiles files = OpenTiny({.layers = 1, .matrices = DType::kF8E4M3});
  std::vector<LoadedRank> ranks = LoadAll(files.config, *files.checkpoint, Ref(), 1, 1);
  const std::span<std::byte> bytes = ranks[0].region->bytes();
  int refused = 0;
  for (int64_t i = 0; i < DirectoryBytes(ranks[0].layout.items.size()); ++i) {
    for (const uint8_t change : {0x01, 0x03, 0x80, 0xFF}) {
      bytes[static_cast<size_t>(i)] ^= std::byte{change};
      const auto weights = Bind(bytes, files.config, ranks[0].shard, Ref());
      bytes[static_cast<size_t>(i)] ^= std::byte{change};
      if (!weights.ok()) {
        ++refused;
        continue;
      }
      for (const ops::Weight& w : MatricesOf(*weights)) {
        const auto* data = static_cast<const std::byte*>(w.data);
        ASSERT_GE(data, bytes.data());
        ASSERT_LE(Ref().packed_bytes(w.dtype, w.n, w.k), static_cast<size_t>(bytes.data() + bytes.size() - data));
        const auto* scales = reinterpret_cast<const std::byte*>(w.row_scale);
        if (scales == nullptr) continue;
        ASSERT_GE(scales, bytes.data());
        ASSERT_LE(static_cast<size_t>(w.n) * sizeof(float), static_cast<size_t>(bytes.data() + bytes.size() - scales));
      }
    }
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace shoal::weights
