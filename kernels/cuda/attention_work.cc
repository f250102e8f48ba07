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

std::vector<Unit> UnitsOf(std::span<const AttentionLength> sequences, std::span<const int32_t> heads_begin,
                          const AttentionTiling& tiling) {
  std::vector<Unit> units;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const AttentionLength& s = sequences[i];
    if (s.row_count < std::max(tiling.tokens_min, 1) || s.row_count > tiling.tokens_max) continue;
    for (size_t h = 0; h + 1 < heads_begin.size(); ++h) {
      const int heads = heads_begin[h + 1] - heads_begin[h], rows = s.row_count * heads;
      for (int tile = 0; tile * tiling.tile_rows < rows; ++tile) {
        const int last_row = std::min((tile + 1) * tiling.tile_rows, rows) - 1;
        const int keys = s.position + last_row / heads + 1;
        units.push_back({static_cast<int32_t>(i), static_cast<int32_t>(h), tile, DivideUp(keys, kAttentionTile)});
      }
    }
  }
  return units;
}

// Deals the units out in order.
class Dealer {
 public:
  Dealer(const std::vector<Unit>& units, const AttentionTiling& tiling) : tiling_(tiling) {
    for (const Unit& u : units) left_ += u.tiles + kUnitCost;
    work_.first.push_back(0);
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
        NextWorker();
        take = Take(u, done, splits - done);  // at least 1: who begins a turn does not leave without
      }
      Give(u, done, done + take);
    }
  }
  AttentionWork Finish() {
    while (static_cast<int>(work_.first.size()) <= tiling_.workers) {
      work_.first.push_back(static_cast<int32_t>(work_.items.size()));
    }
    return std::move(work_);
  }

 private:
  bool LastWorker() const { return static_cast<int>(work_.first.size()) >= tiling_.workers; }
  void BeginWorker() {
    load_ = 0;
    quota_ = (left_ + Remaining() - 1) / Remaining();
  }
  int Remaining() const { return std::max(1, tiling_.workers - static_cast<int>(work_.first.size()) + 1); }
  void NextWorker() {
    work_.first.push_back(static_cast<int32_t>(work_.items.size()));
    BeginWorker();
  }
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
      if (begin == 0) work_.joins.push_back({u.sequence, u.kv_head, u.row_tile, slot, 0});
      work_.joins.back().count += slots;
      work_.slots += slots;
    }
    work_.items.push_back({u.sequence, u.kv_head, u.row_tile, begin, end, slot});
    const int tiles = std::min(end * kTilesOfSplit, u.tiles) - begin * kTilesOfSplit;
    load_ += tiles;
    left_ -= tiles;
  }

  const AttentionTiling& tiling_;
  AttentionWork work_;
  int64_t left_ = 0, load_ = 0, quota_ = 0;
};

}  // namespace

AttentionWork MakeAttentionWork(std::span<const AttentionLength> sequences, std::span<const int32_t> heads_begin,
                                const AttentionTiling& tiling) {
  const std::vector<Unit> units = UnitsOf(sequences, heads_begin, tiling);
  Dealer dealer(units, tiling);
  for (const Unit& u : units) dealer.Deal(u);
  return dealer.Finish();
}

int64_t AttentionItemsMax(int sequences, int tokens, std::span<const int32_t> heads_begin,
                          const AttentionTiling& tiling) {
  int64_t units = 0;
  for (size_t h = 0; h + 1 < heads_begin.size(); ++h) {
    const int64_t heads = heads_begin[h + 1] - heads_begin[h];
    if (heads > 0) units += tokens * heads / tiling.tile_rows + std::min(sequences, tokens);
  }
  return units + tiling.workers - 1;
}

std::vector<int32_t> HeadsBegin(std::span<const int32_t> q_to_kv, int kv_heads) {
  std::vector<int32_t> begin(static_cast<size_t>(kv_heads) + 1, 0);
  for (const int32_t h : q_to_kv) ++begin[static_cast<size_t>(h) + 1];
  for (size_t h = 1; h < begin.size(); ++h) begin[h] += begin[h - 1];
  return begin;
}

}  // namespace shoal::cuda
