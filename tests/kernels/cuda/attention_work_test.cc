#include "kernels/cuda/attention_work.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "common/base/rng.h"
#include "tests/kernels/cuda/attention_lists.h"

namespace shoal::cuda {
namespace {

using Unit = std::tuple<int, int, int>;

int Tiles(int keys) { return (keys + kAttentionTile - 1) / kAttentionTile; }

struct Case {
  std::vector<ops::AttentionSequence> sequences;
  std::vector<int32_t> heads_begin;
  AttentionTiling tiling;
  // Keys of the last row of each unit that has to be there.
  std::map<Unit, int> Units() const {
    std::map<Unit, int> units;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const ops::AttentionSequence& s = sequences[i];
      if (s.row_count < tiling.tokens_min || s.row_count > tiling.tokens_max) continue;
      for (size_t h = 0; h + 1 < heads_begin.size(); ++h) {
        const int heads = heads_begin[h + 1] - heads_begin[h];
        for (int r = 0; r < s.row_count * heads; ++r) {
          units[{static_cast<int>(i), static_cast<int>(h), r / tiling.tile_rows}] =
              s.position + (tiling.causal ? r / heads + 1 : s.row_count);
        }
      }
    }
    return units;
  }
};

// Every split of every unit once and in order, slots as the header says, sizes within their bounds.
void ExpectComplete(const Case& c, const AttentionLists& work) {
  const auto units = c.Units();
  std::map<Unit, int> done, slots;
  std::vector<bool> used(static_cast<size_t>(work.slots), false);
  std::map<Unit, AttentionJoin> joins;
  for (const AttentionJoin& j : work.joins) {
    EXPECT_TRUE(joins.insert({{j.sequence, j.kv_head, j.row_tile}, j}).second);
  }
  for (const AttentionItem& i : work.items) {
    const Unit unit = {i.sequence, i.kv_head, i.row_tile};
    ASSERT_TRUE(units.contains(unit));
    ASSERT_LT(i.split_begin, i.split_end);
    EXPECT_EQ(i.split_begin, done[unit]);
    done[unit] = i.split_end;
    const int splits = (units.at(unit) + kAttentionSplit - 1) / kAttentionSplit;
    if (i.slot < 0) {
      EXPECT_TRUE(i.split_begin == 0 && i.split_end == splits);
      EXPECT_FALSE(joins.contains(unit));
      continue;
    }
    ASSERT_TRUE(joins.contains(unit));
    EXPECT_EQ(i.slot, joins[unit].slot + slots[unit]);
    const int count = i.split_begin == 0 ? 1 : i.split_end - i.split_begin;
    slots[unit] += count;
    for (int s = i.slot; s < i.slot + count; ++s) {
      ASSERT_LT(s, work.slots);
      EXPECT_FALSE(used[static_cast<size_t>(s)]);
      used[static_cast<size_t>(s)] = true;
    }
  }
  EXPECT_EQ(done.size(), units.size());
  for (const auto& [unit, keys] : units) EXPECT_EQ(done[unit], (keys + kAttentionSplit - 1) / kAttentionSplit);
  for (const auto& [unit, join] : joins) EXPECT_EQ(slots[unit], join.count);
  EXPECT_LE(work.slots, c.tiling.slots);
  EXPECT_LT(static_cast<int>(work.joins.size()), std::max(2, c.tiling.workers));
  ASSERT_EQ(work.first.size(), static_cast<size_t>(c.tiling.workers) + 1);
  EXPECT_EQ(work.first.front(), 0);
  EXPECT_EQ(work.first.back(), static_cast<int>(work.items.size()));
  EXPECT_TRUE(std::is_sorted(work.first.begin(), work.first.end()));
  int tokens = 0;
  for (const ops::AttentionSequence& s : c.sequences) tokens += s.row_count;
  EXPECT_LE(static_cast<int64_t>(work.items.size()),
            AttentionItemsMax(static_cast<int>(c.sequences.size()), tokens, QToKv(c.heads_begin), c.tiling));
}

// Key tiles of the worker that has most.
int Longest(const Case& c, const AttentionLists& work) {
  const auto units = c.Units();
  int longest = 0;
  for (size_t w = 0; w + 1 < work.first.size(); ++w) {
    int tiles = 0;
    for (int32_t i = work.first[w]; i < work.first[w + 1]; ++i) {
      const AttentionItem& item = work.items[static_cast<size_t>(i)];
      const int keys =
          std::min(units.at({item.sequence, item.kv_head, item.row_tile}), item.split_end * kAttentionSplit);
      tiles += Tiles(keys) - item.split_begin * kAttentionSplit / kAttentionTile;
    }
    longest = std::max(longest, tiles);
  }
  return longest;
}

AttentionLists Make(const Case& c) { return {c.sequences, c.heads_begin, c.tiling}; }

ops::AttentionSequence Rows(int count, int position) { return {nullptr, 0, count, position}; }

TEST(AttentionWork, HoldsEverySplitOnce) {
  for (uint64_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    auto pick = [&, at = uint64_t{0}](int below) mutable {
      return static_cast<int>(RandomBits(seed, 1, at++) % static_cast<uint64_t>(below));
    };
    Case c;
    c.heads_begin = {0};
    const int kv_heads = pick(4) + 1;
    for (int h = 0; h < kv_heads; ++h) c.heads_begin.push_back(c.heads_begin.back() + pick(10));
    const int sequences = pick(6);
    for (int i = 0; i < sequences; ++i) {
      const int count = pick(3) == 0 ? pick(200) : pick(2);
      c.sequences.push_back(Rows(count, pick(5000)));
    }
    c.tiling = {8 << pick(5), pick(40) + 1, pick(3) == 0 ? 0 : pick(300)};
    if (pick(2) == 0) c.tiling.tokens_max = 1;
    c.tiling.causal = pick(3) != 0;
    ExpectComplete(c, Make(c));
  }
}

TEST(AttentionWork, OneLongSequenceOccupiesEveryWorker) {
  const Case c = {{Rows(1, 32767)}, {0, 8, 16, 24, 32, 40, 48, 56, 64}, {8, 132 * 4, 4096}};
  const AttentionLists work = Make(c);
  ExpectComplete(c, work);
  EXPECT_EQ(Longest(c, work), 8);  // two splits: 1,024 splits over 528 workers
  EXPECT_EQ(work.joins.size(), 8u);
}

TEST(AttentionWork, WorkersOfAFullBatchEndTogether) {
  Case c = {{}, {0, 8, 16, 24, 32, 40, 48, 56, 64}, {8, 132 * 4, 1 << 20}};
  for (int i = 0; i < 128; ++i) c.sequences.push_back(Rows(1, 1000 + i % 50));
  const AttentionLists work = Make(c);
  ExpectComplete(c, work);
  int tiles = 0;
  for (const auto& [unit, keys] : c.Units()) tiles += Tiles(keys);
  EXPECT_LE(Longest(c, work), (tiles + 527) / 528 + kAttentionSplit / kAttentionTile);
}

TEST(AttentionWork, WithoutSlotsNothingIsCut) {
  const Case c = {{Rows(1, 4000), Rows(1, 100), Rows(700, 0)}, {0, 3, 3, 4}, {16, 9, 0}};
  const AttentionLists work = Make(c);
  ExpectComplete(c, work);
  EXPECT_TRUE(work.joins.empty());
}

TEST(AttentionWork, TwoListsShareABatchByTokens) {
  const std::vector<ops::AttentionSequence> sequences = {Rows(1, 10), Rows(40, 0), Rows(2, 300), Rows(0, 5)};
  const Case narrow = {sequences, {0, 4}, {8, 3, 10, 1, 2}}, wide = {sequences, {0, 4}, {128, 3, 10, 3}};
  ExpectComplete(narrow, Make(narrow));
  ExpectComplete(wide, Make(wide));
  EXPECT_EQ(narrow.Units().size(), 2u);
  EXPECT_EQ(wide.Units().size(), 2u);
}

TEST(AttentionWork, HeadsBeginCountsTheMap) {
  EXPECT_EQ(HeadsBegin({1, 1, 2, 4}, 6), (std::vector<int32_t>{0, 0, 2, 3, 3, 4, 4}));
  EXPECT_EQ(HeadsBegin({0, 0}, 1), (std::vector<int32_t>{0, 2}));
  EXPECT_EQ(HeadsMax(std::vector<int32_t>{1, 1, 2, 4}), 2);
  EXPECT_EQ(HeadsMax(std::vector<int32_t>{0, 1, 2, 4, 4, 4}), 3);
}

}  // namespace
}  // namespace shoal::cuda
