// Lists of attention's work with memory of their own, for tests.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cuda/attention_work.h"

namespace shoal::cuda {

inline std::vector<int32_t> HeadsBegin(const std::vector<int32_t>& q_to_kv, int kv_heads) {
  std::vector<int32_t> begin(static_cast<size_t>(kv_heads) + 1, -1);
  PutHeadsBegin(q_to_kv, begin);
  return begin;
}
inline std::vector<int32_t> QToKv(const std::vector<int32_t>& heads_begin) {
  std::vector<int32_t> map;
  for (size_t h = 0; h + 1 < heads_begin.size(); ++h) map.resize(heads_begin[h + 1], static_cast<int32_t>(h));
  return map;
}

// Its arrays have just the room that they are said to need.
struct AttentionLists {
  AttentionLists(const std::vector<ops::AttentionSequence>& sequences, const std::vector<int32_t>& heads_begin,
                 const AttentionTiling& tiling) {
    int tokens = 0;
    for (const ops::AttentionSequence& s : sequences) tokens += s.row_count;
    items.resize(AttentionItemsMax(static_cast<int>(sequences.size()), tokens, QToKv(heads_begin), tiling));
    first.resize(static_cast<size_t>(tiling.workers) + 1);
    joins.resize(tiling.workers);
    AttentionWork work = {items.data(), first.data(), joins.data()};
    MakeAttentionWork(sequences, heads_begin, tiling, &work);
    items.resize(work.item_count);
    joins.resize(work.join_count);
    slots = work.slots;
  }
  std::vector<AttentionItem> items;
  std::vector<int32_t> first;
  std::vector<AttentionJoin> joins;
  int slots;
};

}  // namespace shoal::cuda
