// Tested by: tests/kernels/cuda/attention_work_test.cc
#include "kernels/cuda/attention_work.h"

#include <algorithm>

namespace shoal::cuda {
namespace {

constexpr int kTilesOfSplit = kAttentionSplit / kAttentionTile;
constexpr int kUnitCost = 1;  // in key tiles: the rows' q, and the first copies, which nothing hides

int DivideUp(int a, int b) { return (a + b - 1) / b; }

struct Unit {
  int32_t sequence, kv_head, row_tile;
  int tiles;  // of keys
  int splits() const { return DivideUp(tiles, kTilesOfSplit); }
};

// f(unit) for each, in order.
template <typename F>
void ForEachUnit(std::span<const ops::AttentionSequence> sequences, std::span<const int32_t> heads_begin,
                 const AttentionTiling& tiling, F f) {
  for (size_t i = 0; i < sequences.size(); ++i) {
    const ops::AttentionSequence& s = sequences[i];
    if (s.row_count < std::max(tiling.tokens_min, 1) || s.row_count > tiling.tokens_max) continue;
    for (size_t h = 0; h + 1 < heads_begin.size(); ++h) {
      const int heads = heads_begin[h + 1] - heads_begin[h], rows = s.row_count * heads;
      for (int tile = 0; tile * tiling.tile_rows < rows; ++tile) {
        const int last_row = std::min((tile + 1) * tiling.tile_rows, rows) - 1;
        const int keys = s.position + (tiling.causal ? last_row / heads + 1 : s.row_count);
        f(Unit{static_cast<int32_t>(i), static_cast<int32_t>(h), tile, DivideUp(keys, kAttentionTile)});
      }
    }
  }
}

// f(heads) for each kv head that has query heads.
template <typename F>
void ForEachGroup(std::span<const int32_t> q_to_kv, F f) {
  for (size_t begin = 0, end = 0; begin < q_to_kv.size(); begin = end) {
    while (end < q_to_kv.size() && q_to_kv[end] == q_to_kv[begin]) ++end;
    f(static_cast<int64_t>(end - begin));
  }
}

// Deals the units out in order.
class Dealer {
 public:
  // `cost`: of all units together.
  Dealer(int64_t cost, const AttentionTiling& tiling, AttentionWork* work)
      : tiling_(tiling), work_(*work), left_(cost) {
    work_.item_count = work_.join_count = work_.slots = 0;
    BeginWorker();
  }
  void Deal(const Unit& u) {
    const int splits = u.splits();
    int done = 0;
    left_ -= kUnitCost;
    load_ += kUnitCost;
    for (int take = 0; done < splits; done += take) {
      take = Take(u, done, splits - done);
      if (take == 0) {
        BeginWorker();
        take = Take(u, done, splits - done);  // at least 1: who begins a turn does not leave without
      }
      Give(u, done, done + take);
    }
  }
  void Finish() {
    while (begun_ <= tiling_.workers) work_.first[begun_++] = work_.item_count;
  }

 private:
  bool LastWorker() const { return begun_ >= tiling_.workers; }
  void BeginWorker() {
    work_.first[begun_++] = work_.item_count;
    load_ = 0;
    quota_ = (left_ + Remaining() - 1) / Remaining();
  }
  int Remaining() const { return std::max(1, tiling_.workers - begun_ + 1); }
  // How many of the `rest` splits after `done` the worker takes: to the split border nearest to its quota, all when the
  // unit cannot be cut there.
  int Take(const Unit& u, int done, int rest) const {
    if (LastWorker()) return rest;
    const int64_t room = std::max<int64_t>(0, quota_ - load_);
    if (u.tiles - done * kTilesOfSplit <= room + kTilesOfSplit / 2) return rest;
    const int take = static_cast<int>((room + kTilesOfSplit / 2) / kTilesOfSplit);
    const bool empty_handed = take == 0 && load_ <= kUnitCost;
    const int cut = empty_handed ? 1 : take;
    if (cut >= rest) return rest;
    if (done == 0 && cut > 0 && work_.slots + 1 + rest - cut > tiling_.slots) return rest;
    return cut;
  }
  void Give(const Unit& u, int begin, int end) {
    const bool whole = begin == 0 && end == u.splits();
    int32_t slot = -1;
    if (!whole) {
      slot = work_.slots;
      const int slots = begin == 0 ? 1 : end - begin;
      if (begin == 0) work_.joins[work_.join_count++] = {u.sequence, u.kv_head, u.row_tile, slot, 0};
      work_.joins[work_.join_count - 1].count += slots;
      work_.slots += slots;
    }
    work_.items[work_.item_count++] = {u.sequence, u.kv_head, u.row_tile, begin, end, slot};
    const int tiles = std::min(end * kTilesOfSplit, u.tiles) - begin * kTilesOfSplit;
    load_ += tiles;
    left_ -= tiles;
  }

  const AttentionTiling& tiling_;
  AttentionWork& work_;
  int begun_ = 0;  // workers
  int64_t left_, load_ = 0, quota_ = 0;
};

}  // namespace

void MakeAttentionWork(std::span<const ops::AttentionSequence> sequences, std::span<const int32_t> heads_begin,
                       const AttentionTiling& tiling, AttentionWork* work) {
  int64_t cost = 0;
  ForEachUnit(sequences, heads_begin, tiling, [&](const Unit& u) { cost += u.tiles + kUnitCost; });
  Dealer dealer(cost, tiling, work);
  ForEachUnit(sequences, heads_begin, tiling, [&](const Unit& u) { dealer.Deal(u); });
  dealer.Finish();
}

int64_t AttentionItemsMax(int sequences, int tokens, std::span<const int32_t> q_to_kv, const AttentionTiling& tiling) {
  const int64_t listed = std::min(sequences, tokens / std::max(tiling.tokens_min, 1));
  const int64_t longest = std::min(tiling.tokens_max, tokens);
  int64_t units = 0;
  ForEachGroup(q_to_kv, [&](int64_t heads) {
    const int64_t of_longest = (longest * heads + tiling.tile_rows - 1) / tiling.tile_rows;
    units += std::min(tokens * heads / tiling.tile_rows + listed, listed * of_longest);
  });
  return units + tiling.workers - 1;
}

void PutHeadsBegin(std::span<const int32_t> q_to_kv, std::span<int32_t> heads_begin) {
  std::fill(heads_begin.begin(), heads_begin.end(), 0);
  for (const int32_t h : q_to_kv) ++heads_begin[static_cast<size_t>(h) + 1];
  for (size_t h = 1; h < heads_begin.size(); ++h) heads_begin[h] += heads_begin[h - 1];
}

int HeadsMax(std::span<const int32_t> q_to_kv) {
  int64_t most = 0;
  ForEachGroup(q_to_kv, [&](int64_t heads) { most = std::max(most, heads); });
  return static_cast<int>(most);
}

}  // namespace shoal::cuda
