#include "common/plan/shard_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace shoal::plan {
namespace {

using model::ModelConfig;
using model::Role;
using model::TensorSpec;

ModelConfig Config(int layers, int hidden, int heads, int kv_heads, int head_dim, int ffn, int vocab, bool tied) {
  ModelConfig c;
  c.layers = layers;
  c.hidden = hidden;
  c.heads = heads;
  c.kv_heads = kv_heads;
  c.head_dim = head_dim;
  c.ffn = ffn;
  c.vocab = vocab;
  c.max_position = 8192;
  c.attention_scale = 0.125f;
  c.tied_embeddings = tied;
  c.rope.dim = head_dim;
  return c;
}
ModelConfig SmolLm2() { return Config(30, 576, 9, 3, 64, 1536, 49152, true); }
ModelConfig Llama70B() { return Config(80, 8192, 64, 8, 128, 28672, 128256, false); }
ModelConfig Odd() {
  return Config(5, 96, 6, 3, 16, 224, 131, false);
}  // heads in units of two, a vocabulary with a rest

// Layers with experts and one without, biases, learned positions.
ModelConfig Mixed() {
  ModelConfig c = Config(5, 96, 6, 3, 16, 224, 131, false);
  c.kinds = {{.has_experts = true}, {}, {.has_experts = true}, {.has_experts = true}, {.has_experts = true}};
  c.experts = {.count = 4, .used = 2, .ffn = 160, .renormalise = true};
  c.qkv_bias = c.output_bias = c.learned_positions = c.qk_norm = true;
  return c;
}

struct Shape {
  int tp, pp;
};

// Every shape that may be used with this model, a sample of them when there are many.
std::vector<Shape> Shapes(const ModelConfig& c, int most_tp) {
  std::vector<Shape> out;
  for (int tp = 1; tp <= most_tp; ++tp) {
    for (int pp = 1; pp <= c.layers; pp += pp < 5 ? 1 : 5) out.push_back({tp, pp});
  }
  return out;
}

// How often each cell of a stored tensor is held: rows x columns in blocks that all borders respect.
void ExpectExactCover(const ModelConfig& c, const ShardPlan& plan, const TensorSpec& spec) {
  const int64_t rows = spec.shape.size() == 1 ? 1 : spec.shape[0], columns = spec.shape.back();
  std::set<int32_t> row_borders = {0, static_cast<int32_t>(rows)}, column_borders = {0, static_cast<int32_t>(columns)};
  std::vector<TensorSlice> slices;
  for (const RankShard& shard : plan.ranks) {
    const TensorSlice s = SliceOf(c, shard, spec);
    if (s.empty()) continue;
    ASSERT_GE(s.rows.begin, 0);
    ASSERT_LE(s.rows.end, rows);
    ASSERT_GE(s.columns.begin, 0);
    ASSERT_LE(s.columns.end, columns);
    if (!spec.is_vector()) {
      ASSERT_EQ(s.columns.begin % 32, 0) << spec.name;
      ASSERT_EQ(s.columns.size() % 32, 0) << spec.name;
    }
    row_borders.insert({s.rows.begin, s.rows.end});
    column_borders.insert({s.columns.begin, s.columns.end});
    slices.push_back(s);
  }
  const bool replicated = spec.shard == model::Shard::kReplicated;
  const bool tied_twice = spec.role == Role::kEmbedding && c.tied_embeddings && plan.pp > 1;
  for (auto row = row_borders.begin(); std::next(row) != row_borders.end(); ++row) {
    for (auto column = column_borders.begin(); std::next(column) != column_borders.end(); ++column) {
      const auto holders = std::count_if(slices.begin(), slices.end(), [&](const TensorSlice& s) {
        return s.rows.contains(*row) && s.columns.contains(*column);
      });
      int64_t wanted = replicated ? plan.tp : tied_twice ? 2 : 1;
      if (spec.shard == model::Shard::kKvHeadRows) {  // once per rank whose query heads read it
        const int32_t kv = (spec.is_vector() ? *column : *row) / c.head_dim;
        wanted = std::count_if(plan.ranks.begin(), plan.ranks.begin() + plan.tp, [&](const RankShard& r) {
          return KvHeadOf(c, r.heads.begin) <= kv && kv <= KvHeadOf(c, r.heads.end - 1);
        });
        ASSERT_GE(wanted, 1);
      }
      ASSERT_EQ(holders, wanted) << spec.name << " row " << *row << " column " << *column;
    }
  }
}

// Contiguous, in order, from 0 to `end`.
void ExpectTiles(const std::vector<Range>& ranges, int32_t end, const char* what) {
  int32_t at = 0;
  for (const Range& r : ranges) {
    ASSERT_EQ(r.begin, at) << what;
    ASSERT_GE(r.end, r.begin) << what;
    at = r.end;
  }
  ASSERT_EQ(at, end) << what;
}

void ExpectSound(const ModelConfig& c, Shape shape) {
  const auto plan = MakeShardPlan(c, shape.tp, shape.pp);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->ranks.size(), static_cast<size_t>(shape.tp * shape.pp));
  std::vector<Range> heads, ffn, vocab, layers;
  for (int t = 0; t < shape.tp; ++t) {
    const RankShard& r = plan->At(0, t);
    heads.push_back(r.heads);
    ffn.push_back(r.ffn);
    vocab.push_back(r.vocab);
    ASSERT_GE(r.heads.size(), 1);
    ASSERT_GE(r.ffn.size(), 32);
    ASSERT_EQ(r.kv_heads, (Range{KvHeadOf(c, r.heads.begin), KvHeadOf(c, r.heads.end - 1) + 1}));
    ASSERT_EQ(r.ffn.begin % 32, 0);
    ASSERT_EQ(r.vocab.begin % 32, 0);
  }
  ExpectTiles(heads, c.heads, "heads");
  ExpectTiles(ffn, c.ffn, "ffn");
  ExpectTiles(vocab, c.vocab, "vocabulary");
  for (int s = 0; s < shape.pp; ++s) {
    layers.push_back(plan->At(s, 0).layers);
    ASSERT_GE(layers.back().size(), 1);
    for (int t = 0; t < shape.tp; ++t) {
      const RankShard& r = plan->At(s, t);
      ASSERT_EQ(r.rank, s * shape.tp + t);
      ASSERT_EQ(r.layers, layers.back());
      ASSERT_EQ(r.heads, heads[t]);
      ASSERT_EQ(r.has_embedding, s == 0);
      ASSERT_EQ(r.has_head, s == shape.pp - 1);
    }
  }
  ExpectTiles(layers, c.layers, "layers");
  for (const TensorSpec& spec : model::TensorTable(c)) ExpectExactCover(c, *plan, spec);
}

TEST(ShardPlan, SmolLm2InEveryShape) {
  for (const Shape s : Shapes(SmolLm2(), 9)) ASSERT_NO_FATAL_FAILURE(ExpectSound(SmolLm2(), s)) << s.tp << "x" << s.pp;
  ASSERT_NO_FATAL_FAILURE(ExpectSound(SmolLm2(), {9, 30}));
  EXPECT_TRUE(MakeShardPlan(SmolLm2(), 4, 3).ok());
}

TEST(ShardPlan, OddShapes) {
  for (const Shape s : Shapes(Odd(), 3)) ASSERT_NO_FATAL_FAILURE(ExpectSound(Odd(), s)) << s.tp << "x" << s.pp;
  EXPECT_FALSE(MakeShardPlan(Odd(), 4, 1).ok()) << "three units of two heads";
}

TEST(ShardPlan, ExpertsAreCutByTheirWidth) {
  for (const Shape s : Shapes(Mixed(), 3)) ASSERT_NO_FATAL_FAILURE(ExpectSound(Mixed(), s)) << s.tp << "x" << s.pp;
  const ShardPlan plan = *MakeShardPlan(Mixed(), 3, 1);
  std::vector<Range> widths;
  for (const RankShard& r : plan.ranks) widths.push_back(r.expert_ffn);
  ASSERT_NO_FATAL_FAILURE(ExpectTiles(widths, 160, "expert width"));
  ModelConfig narrow = Mixed();
  narrow.experts.ffn = 64;
  EXPECT_FALSE(MakeShardPlan(narrow, 3, 1).ok()) << "two blocks of each expert";
  ModelConfig wide = Mixed();
  wide.experts.ffn = 192;
  EXPECT_NE(MakeShardPlan(wide, 2, 1)->Hash(), MakeShardPlan(Mixed(), 2, 1)->Hash());
  EXPECT_EQ(BalanceBound(Mixed(), *MakeShardPlan(Mixed(), 1, 1)), 1.0);
  EXPECT_GT(BalanceBound(Mixed(), plan), 0.5);
}

TEST(ShardPlan, UnevenHeadsTouchFewKvHeads) {
  const auto kv_total = [](int tp) {
    const ShardPlan plan = *MakeShardPlan(SmolLm2(), tp, 1);
    int sum = 0, most = 0;
    for (const RankShard& r : plan.ranks) sum += r.kv_heads.size(), most = std::max(most, r.heads.size());
    EXPECT_EQ(most, (9 + tp - 1) / tp) << tp;
    return sum;
  };
  EXPECT_EQ(kv_total(1), 3);
  EXPECT_EQ(kv_total(2), 4);
  EXPECT_EQ(kv_total(3), 3);
  EXPECT_EQ(kv_total(4), 4) << "3 + 3 + 3 cut once, not 3 + 2 + 2 + 2";
  EXPECT_EQ(kv_total(9), 9);
}

TEST(ShardPlan, StagesWithTheHeadGetFewerLayers) {
  const auto layers = [](const ModelConfig& c, int pp) {
    const ShardPlan plan = *MakeShardPlan(c, 1, pp);
    std::vector<int> out;
    for (const RankShard& r : plan.ranks) out.push_back(r.layers.size());
    return out;
  };
  // SmolLM2's head is the work of exactly eight of its layers.
  EXPECT_EQ(layers(SmolLm2(), 2), (std::vector<int>{19, 11}));
  EXPECT_EQ(layers(SmolLm2(), 3), (std::vector<int>{12, 13, 5}));
  EXPECT_EQ(layers(Llama70B(), 2), (std::vector<int>{41, 39}));  // its head is 1.2 layers
  EXPECT_EQ(layers(SmolLm2(), 30), std::vector<int>(30, 1));
}

TEST(ShardPlan, EvenShapesAreEven) {
  const ShardPlan plan = *MakeShardPlan(Llama70B(), 8, 1);
  for (const RankShard& r : plan.ranks) {
    EXPECT_EQ(r.heads.size(), 8);
    EXPECT_EQ(r.kv_heads.size(), 1);
    EXPECT_EQ(r.ffn.size(), 3584);
    EXPECT_EQ(r.vocab.size(), 16032);
  }
  EXPECT_DOUBLE_EQ(BalanceBound(Llama70B(), plan), 1.0);
}

TEST(ShardPlan, TooManyRanksSayHowManyAreUsable) {
  const auto refusal = [](int tp, int pp) { return std::string(MakeShardPlan(SmolLm2(), tp, pp).status().message()); };
  EXPECT_NE(refusal(10, 1).find("1 to 9"), std::string::npos) << refusal(10, 1);
  EXPECT_NE(refusal(1, 31).find("1 to 30"), std::string::npos) << refusal(1, 31);
  EXPECT_NE(refusal(0, 1), "");
  EXPECT_NE(refusal(1, 0), "");
  EXPECT_NE(refusal(-1, 1), "");
  ModelConfig narrow = SmolLm2();
  narrow.ffn = 64;
  EXPECT_FALSE(MakeShardPlan(narrow, 3, 1).ok()) << "two feed-forward blocks";
}

TEST(ShardPlan, BalanceBoundIsWhatTheLargestRankAllows) {
  for (int tp = 1; tp <= 9; ++tp) {
    const ShardPlan plan = *MakeShardPlan(SmolLm2(), tp, 1);
    const double bound = BalanceBound(SmolLm2(), plan);
    EXPECT_GT(bound, 0.5) << tp;
    EXPECT_LE(bound, 1.0) << tp;
  }
  EXPECT_DOUBLE_EQ(BalanceBound(SmolLm2(), *MakeShardPlan(SmolLm2(), 1, 1)), 1.0);
  // Two stages of 19 layers' work each.
  EXPECT_DOUBLE_EQ(BalanceBound(SmolLm2(), *MakeShardPlan(SmolLm2(), 1, 2)), 1.0);
  // Ranks with 5 and 4 heads, 2 kv heads each: attention 14 and 12, feed-forward 36 and 36 (in units of 64 x 576), head
  // 24576 rows = 384 each. One rank with everything: attention 24 (3 kv heads, not 4).
  const double largest = 30 * (14 + 36) + 384, whole = 30 * (24 + 72) + 768;
  EXPECT_NEAR(BalanceBound(SmolLm2(), *MakeShardPlan(SmolLm2(), 2, 1)), whole / 2 / largest, 1e-12);
}

TEST(ShardPlan, HashTellsPlansApart) {
  std::set<uint64_t> hashes;
  int count = 0;
  for (const ModelConfig& c : {SmolLm2(), Llama70B(), Odd()}) {
    for (int tp = 1; tp <= 3; ++tp) {
      for (int pp = 1; pp <= 3; ++pp) {
        const ShardPlan plan = *MakeShardPlan(c, tp, pp);
        EXPECT_EQ(plan.Hash(), MakeShardPlan(c, tp, pp)->Hash());
        hashes.insert(plan.Hash());
        ++count;
      }
    }
  }
  EXPECT_EQ(hashes.size(), static_cast<size_t>(count));
}

}  // namespace
}  // namespace shoal::plan
