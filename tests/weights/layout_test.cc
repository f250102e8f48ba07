#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/ops/backends.h"
#include "tests/weights/shards.h"
#include "worker/weights/region.h"

namespace shoal::weights {
namespace {

const ops::OpTable& Ref() { return **ops::FindOpTable("ref"); }

WeightLayout Layout(const model::ModelFiles& files, int tp, int pp, int rank, bool compute_f32 = false) {
  const auto plan = plan::MakeShardPlan(files.config, tp, pp);
  auto layout = MakeLayout(files.config, *files.checkpoint, plan->ranks[static_cast<size_t>(rank)], Ref(), compute_f32);
  EXPECT_TRUE(layout.ok()) << layout.status();
  return *std::move(layout);
}

TEST(Layout, ItemsLieBehindEachOtherOnCacheLines) {
  const model::ModelFiles files = OpenTiny({});
  for (int rank = 0; rank < 4; ++rank) {
    const WeightLayout layout = Layout(files, 2, 2, rank);
    int64_t end = DirectoryBytes(layout.items.size());
    for (const WeightLayout::Item& item : layout.items) {
      EXPECT_EQ(item.offset % 64, 0);
      EXPECT_GE(item.offset, end);
      EXPECT_LT(item.offset, end + 64);
      EXPECT_GT(item.bytes, 0);
      end = item.offset + item.bytes;
    }
    EXPECT_GE(layout.region_bytes, end);
    EXPECT_LT(layout.region_bytes, end + 64);
  }
}

TEST(Layout, EachRankHoldsItsStage) {
  testing::TinyModel m;
  m.tied = false;
  const model::ModelFiles files = OpenTiny(m);
  const auto has = [&](int rank, model::Role role) {
    const WeightLayout layout = Layout(files, 1, 2, rank);
    return std::count_if(layout.items.begin(), layout.items.end(), [&](const auto& i) { return i.spec.role == role; });
  };
  EXPECT_EQ(has(0, model::Role::kEmbedding), 1);
  EXPECT_EQ(has(0, model::Role::kHead), 0);
  EXPECT_EQ(has(0, model::Role::kFinalNorm), 0);
  EXPECT_EQ(has(0, model::Role::kQ), 1);
  EXPECT_EQ(has(1, model::Role::kEmbedding), 0);
  EXPECT_EQ(has(1, model::Role::kHead), 1);
  EXPECT_EQ(has(1, model::Role::kFinalNorm), 1);
  EXPECT_EQ(has(1, model::Role::kDown), 1);
}

TEST(Layout, ATiedTableIsHeldOnceOnOneStageAndByBothEndsOfTwo) {
  const model::ModelFiles files = OpenTiny({});
  const int64_t table = files.checkpoint->Find("embedding")->bytes;
  int64_t stored = 0;
  for (const auto& t : files.checkpoint->tensors()) stored += t.bytes;
  EXPECT_EQ(Layout(files, 1, 1, 0).read_bytes, stored);
  EXPECT_EQ(Layout(files, 1, 2, 0).read_bytes + Layout(files, 1, 2, 1).read_bytes, stored + table);
}

TEST(Layout, ComputeF32WidensMatricesAndReadsNoMore) {
  testing::TinyModel m;
  m.matrices = DType::kQ4_1;
  m.embedding = DType::kQ8_0;
  const model::ModelFiles files = OpenTiny(m);
  const WeightLayout narrow = Layout(files, 1, 1, 0), wide = Layout(files, 1, 1, 0, true);
  EXPECT_EQ(narrow.read_bytes, wide.read_bytes);
  for (const WeightLayout::Item& item : wide.items) EXPECT_EQ(item.dtype, DType::kF32);
  EXPECT_GT(wide.region_bytes, 3 * narrow.region_bytes);
}

TEST(Layout, UnsupportedTypesAreAllNamed) {
  testing::TinyModel m;
  m.matrices = DType::kQ4_1;
  m.embedding = DType::kQ8_0;
  const model::ModelFiles files = OpenTiny(m);
  ops::OpTable table = Ref();
  table.name = "picky";
  table.supports = [](DType t) { return t == DType::kF32; };
  const plan::RankShard shard = plan::MakeShardPlan(files.config, 1, 1)->ranks[0];
  const absl::Status s = MakeLayout(files.config, *files.checkpoint, shard, table, false).status();
  EXPECT_EQ(s.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(s.message().find("picky cannot compute with weights of type q4_1, q8_0"), absl::string_view::npos) << s;
  EXPECT_TRUE(MakeLayout(files.config, *files.checkpoint, shard, table, true).ok());
}

TEST(Layout, MissingTensorsAreListed) {
  model::ModelFiles files = OpenTiny({});
  files.config.layers = 4;
  const plan::RankShard shard = plan::MakeShardPlan(files.config, 1, 1)->ranks[0];
  const absl::Status s = MakeLayout(files.config, *files.checkpoint, shard, Ref(), false).status();
  EXPECT_NE(s.message().find("18 problems"), absl::string_view::npos) << s;
}

}  // namespace
}  // namespace shoal::weights
