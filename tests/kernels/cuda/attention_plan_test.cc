#include "kernels/cuda/attention_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "common/base/rng.h"
#include "tests/kernels/cuda/attention_lists.h"

namespace shoal::cuda {
namespace {

using ops::AttentionPlanShape;
using ops::AttentionSequence;

// Numbers that follow from a seed.
struct Picks {
  explicit Picks(uint64_t seed) : seed(seed) {}
  int operator()(int below) { return static_cast<int>(RandomBits(seed, 4, at++) % static_cast<uint64_t>(below)); }
  uint64_t seed, at = 0;
};

std::vector<int32_t> RandomMap(Picks& pick, int kv_heads) {
  std::vector<int32_t> map;
  for (int h = 0; h < kv_heads; ++h) map.insert(map.end(), static_cast<size_t>(pick(12)), h);
  if (map.empty()) map.push_back(kv_heads - 1);
  return map;
}

AttentionPlanShape RandomShape(Picks& pick, const std::vector<int32_t>& map, int kv_heads) {
  constexpr int kDims[] = {16, 64, 80, 128, 256};
  AttentionPlanShape s = {.threads = pick(20) + 1,
                          .max_tokens = pick(300) + 1,
                          .max_sequences = pick(20) + 1,
                          .max_context = 300 + pick(5000),
                          .q_to_kv = map.data(),
                          .q_heads = static_cast<int>(map.size()),
                          .kv_heads = kv_heads,
                          .head_dim = kDims[pick(5)]};
  if (pick(3) == 0) s.max_rows = pick(s.max_tokens) + 1;
  s.causal = pick(4) != 0;
  return s;
}

std::vector<AttentionSequence> RandomBatch(Picks& pick, const AttentionPlanShape& s) {
  const int longest = s.max_rows > 0 ? s.max_rows : s.max_tokens, usual = pick(2) == 0 ? 1 : longest;
  std::vector<AttentionSequence> batch;
  for (int tokens = 0; tokens < s.max_tokens && static_cast<int>(batch.size()) < s.max_sequences;) {
    const int count = std::min(pick(usual) + 1, s.max_tokens - tokens);
    if (pick(30) == 0) break;
    batch.push_back({nullptr, tokens, count, pick(s.max_context - count)});
    tokens += count;
  }
  return batch;
}

// A plan between two stretches of bytes that nothing may change.
struct GuardedPlan {
  static constexpr size_t kGuard = 64;
  explicit GuardedPlan(const AttentionPlanShape& s)
      : bytes(static_cast<size_t>(LayoutOf(s).bytes) + 2 * kGuard, 0xee), plan(bytes.data() + kGuard) {}
  bool intact() const {
    const auto untouched = [](uint8_t b) { return b == 0xee; };
    return std::all_of(bytes.begin(), bytes.begin() + kGuard, untouched) &&
           std::all_of(bytes.end() - kGuard, bytes.end(), untouched);
  }
  std::vector<uint8_t> bytes;
  uint8_t* plan;
};

// The list is the one that the batch asks for, and inside the plan.
void ExpectList(const AttentionPlanLayout::List& place, const AttentionList& list, const AttentionPlanShape& s,
                const std::vector<AttentionSequence>& batch, const std::vector<int32_t>& heads_begin) {
  const AttentionLists expected(batch, heads_begin, place.tiling);
  ASSERT_EQ(*list.join_count, static_cast<int32_t>(expected.joins.size()));
  const auto same = [](const auto* got, const auto& wanted) {
    return std::memcmp(got, wanted.data(), wanted.size() * sizeof(wanted[0])) == 0;
  };
  EXPECT_TRUE(same(list.first, expected.first));
  EXPECT_TRUE(same(list.items, expected.items));
  EXPECT_TRUE(same(list.joins, expected.joins));
  EXPECT_LE(expected.slots, place.tiling.slots);
  EXPECT_EQ(list.workers, static_cast<int>(expected.first.size()) - 1);
  if (!expected.joins.empty()) {
    EXPECT_GE(list.joins_max, *list.join_count);
  }
  const int64_t end = place.partials + place.tiling.slots * AttentionSlotFloats(place.tiling.tile_rows, s.head_dim);
  EXPECT_LE(end, AttentionWorkspace(s.threads, s.max_tokens, s.q_heads, s.head_dim, s.max_context));
}

TEST(AttentionPlan, HoldsTheListsOfAnyBatchAtTheSamePlaces) {
  int joins = 0, wide_items = 0, narrow_items = 0;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Picks pick(seed);
    const int kv_heads = pick(5) + 1;
    const std::vector<int32_t> map = RandomMap(pick, kv_heads);
    const AttentionPlanShape shape = RandomShape(pick, map, kv_heads);
    const AttentionPlanLayout layout = LayoutOf(shape);
    EXPECT_EQ(layout.bytes % 16, 0);
    GuardedPlan guarded(shape);
    for (int i = 0; i < 4; ++i) {
      const std::vector<AttentionSequence> batch = RandomBatch(pick, shape);
      MakeAttentionPlan(shape, batch.data(), static_cast<int>(batch.size()), guarded.plan);
      ASSERT_TRUE(guarded.intact());
      Attention op = {};
      TakeAttentionPlan(shape, guarded.plan, nullptr, &op);
      const std::vector<int32_t> heads_begin = HeadsBegin(map, kv_heads);
      EXPECT_TRUE(std::equal(heads_begin.begin(), heads_begin.end(), op.heads_begin));
      ExpectList(layout.narrow, op.narrow, shape, batch, heads_begin);
      joins += *op.narrow.join_count;
      narrow_items += op.narrow.first[op.narrow.workers];
      size_t listed = 0;
      for (const AttentionSequence& s : batch) listed += s.row_count <= layout.narrow.tiling.tokens_max ? 1 : 0;
      if (op.wide.workers == 0) {
        EXPECT_EQ(listed, batch.size()) << "a sequence is in no list";
        continue;
      }
      ExpectList(layout.wide, op.wide, shape, batch, heads_begin);
      EXPECT_EQ(layout.wide.tiling.tokens_min, layout.narrow.tiling.tokens_max + 1);
      joins += *op.wide.join_count;
      wide_items += op.wide.first[op.wide.workers];
    }
  }
  EXPECT_GT(joins, 1000) << "trivial";
  EXPECT_GT(wide_items, 1000) << "trivial";
  EXPECT_GT(narrow_items, 1000) << "trivial";
}

// Room for the largest batch and context is room for all shapes within them.
TEST(AttentionPlan, SmallerShapesNeedNoMore) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    Picks pick(seed);
    const std::vector<int32_t> map = RandomMap(pick, 4);
    AttentionPlanShape shape = RandomShape(pick, map, 4);
    const int64_t floats =
        AttentionWorkspace(shape.threads, shape.max_tokens, shape.q_heads, shape.head_dim, shape.max_context);
    const int64_t bytes = LayoutOf(shape).bytes;
    shape.max_tokens = pick(shape.max_tokens) + 1;
    shape.max_sequences = pick(shape.max_sequences) + 1;
    shape.max_context = pick(shape.max_context) + 1;
    const int longest = shape.max_rows > 0 ? std::min(shape.max_rows, shape.max_tokens) : shape.max_tokens;
    shape.max_rows = pick(longest) + 1;
    const AttentionPlanLayout::List& wide = LayoutOf(shape).wide;
    EXPECT_LE(wide.partials + wide.tiling.slots * AttentionSlotFloats(WideRows(shape.head_dim), shape.head_dim), floats)
        << seed;
    EXPECT_LE(LayoutOf(shape).bytes, bytes) << seed;
  }
}

TEST(AttentionPlan, ABatchThatDecodesNeedsOneList) {
  std::vector<int32_t> map(64);
  for (int h = 0; h < 64; ++h) map[static_cast<size_t>(h)] = h / 8;
  AttentionPlanShape s = {.threads = 132,
                          .max_tokens = 256,
                          .max_sequences = 256,
                          .max_context = 8192,
                          .q_to_kv = map.data(),
                          .q_heads = 64,
                          .kv_heads = 8,
                          .head_dim = 128};
  EXPECT_EQ(LayoutOf(s).wide.tiling.workers, 132);
  s.max_rows = 1;
  const AttentionPlanLayout layout = LayoutOf(s);
  EXPECT_EQ(layout.wide.tiling.workers, 0);
  EXPECT_LT(layout.bytes, 100 << 10) << "copied for each step";
  // Contexts of one split are never cut.
  s.max_context = kAttentionSplit;
  EXPECT_EQ(LayoutOf(s).narrow.tiling.slots, 0);
  EXPECT_EQ(AttentionWorkspace(132, 256, 64, 128, kAttentionSplit), 0);
}

TEST(AttentionPlan, OneLongSequenceOccupiesEveryMultiprocessor) {
  std::vector<int32_t> map(64);
  for (int h = 0; h < 64; ++h) map[static_cast<size_t>(h)] = h / 8;
  const AttentionPlanShape s = {.threads = 132,
                                .max_tokens = 512,
                                .max_sequences = 8,
                                .max_context = 32768,
                                .q_to_kv = map.data(),
                                .q_heads = 64,
                                .kv_heads = 8,
                                .head_dim = 128};
  for (const int rows : {1, 16, 32}) {
    const AttentionSequence sequence = {nullptr, 0, rows, 32768 - rows};
    std::vector<uint8_t> plan(static_cast<size_t>(LayoutOf(s).bytes));
    MakeAttentionPlan(s, &sequence, 1, plan.data());
    Attention op = {};
    TakeAttentionPlan(s, plan.data(), nullptr, &op);
    const AttentionList& list = rows == 1 ? op.narrow : op.wide;
    int busy = 0;
    for (int w = 0; w < list.workers; ++w) busy += list.first[w + 1] > list.first[w] ? 1 : 0;
    EXPECT_GE(busy, 120) << rows;
  }
}

}  // namespace
}  // namespace shoal::cuda
