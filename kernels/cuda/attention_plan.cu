// Tested by: tests/kernels/cuda/attention_plan_test.cc
#include <algorithm>
#include <cstring>

#include "common/base/check.h"
#include "kernels/cuda/attention_plan.h"

namespace shoal::cuda {
namespace {

// Shared memory of a multiprocessor that narrow workers are counted for: compute capability 8.0's. What more there is
// on a 9.0 would hold one worker more; memory is kept busy without it (narrow.cu).
constexpr size_t kSharedBytes = 164 << 10;
// Slots for each worker. A sequence of 32,768 keys and 8 kv heads has 1,024 splits for each tile of rows: 132 wide
// workers share two tiles of them, narrow ones, three or more to a multiprocessor, 12. Beyond that there are units
// enough to keep most workers busy without cutting all of them. With head_dim 128 they take some 200 MB.
constexpr int kNarrowSlots = 32, kWideSlots = 16;

// A unit of one split is not cut.
int SlotsOf(int workers, int per_worker, int64_t tokens, int q_heads, int max_context) {
  const int64_t splits = (max_context + kAttentionSplit - 1) / kAttentionSplit;
  if (splits < 2) return 0;
  return static_cast<int>(std::min(tokens * q_heads * splits, int64_t{workers} * per_worker));
}
AttentionTiling NarrowTiling(int threads, int tokens, int q_heads, int head_dim, int max_context, int tile_rows) {
  const int workers = threads * NarrowWorkers(head_dim, tile_rows, kSharedBytes);
  return {tile_rows, workers, SlotsOf(workers, kNarrowSlots, tokens, q_heads, max_context)};
}
AttentionTiling WideTiling(int threads, int tokens, int q_heads, int head_dim, int max_context) {
  return {WideRows(head_dim), threads, SlotsOf(threads, kWideSlots, tokens, q_heads, max_context)};
}
int64_t PartialFloats(const AttentionTiling& t, int head_dim) {
  return t.slots * AttentionSlotFloats(t.tile_rows, head_dim);
}

int LongestOf(const ops::AttentionPlanShape& s) { return s.max_rows > 0 ? s.max_rows : s.max_tokens; }
std::span<const int32_t> MapOf(const ops::AttentionPlanShape& s) { return {s.q_to_kv, static_cast<size_t>(s.q_heads)}; }

// Gives out places one after another, each a whole number of 16 bytes.
class Places {
 public:
  size_t Take(size_t bytes) {
    const size_t at = used_;
    used_ += (bytes + 15) / 16 * 16;
    return at;
  }
  size_t used() const { return used_; }

 private:
  size_t used_ = 0;
};

void PlaceList(const ops::AttentionPlanShape& s, Places* places, AttentionPlanLayout::List* list) {
  if (list->tiling.workers == 0) return;
  const auto workers = static_cast<size_t>(list->tiling.workers);
  const int64_t items = AttentionItemsMax(s.max_sequences, s.max_tokens, MapOf(s), list->tiling);
  list->join_count = places->Take(sizeof(int32_t));
  list->first = places->Take((workers + 1) * sizeof(int32_t));
  list->items = places->Take(static_cast<size_t>(items) * sizeof(AttentionItem));
  list->joins = places->Take(workers * sizeof(AttentionJoin));
}

template <typename T>
T* At(void* plan, size_t offset) {
  return reinterpret_cast<T*>(static_cast<std::byte*>(plan) + offset);
}
template <typename T>
const T* At(const void* plan, size_t offset) {
  return reinterpret_cast<const T*>(static_cast<const std::byte*>(plan) + offset);
}

AttentionList ListAt(const AttentionPlanLayout::List& l, const void* plan, float* workspace) {
  if (l.tiling.workers == 0) return {};
  return {.items = At<AttentionItem>(plan, l.items),
          .first = At<int32_t>(plan, l.first),
          .joins = At<AttentionJoin>(plan, l.joins),
          .join_count = At<int32_t>(plan, l.join_count),
          .partials = workspace + l.partials,
          .workers = l.tiling.workers,
          .joins_max = l.tiling.slots > 0 ? l.tiling.workers : 0};
}

}  // namespace

AttentionPlanLayout LayoutOf(const ops::AttentionPlanShape& s) {
  AttentionPlanLayout layout = {};
  const int heads_max = HeadsMax(MapOf(s)), longest = LongestOf(s);
  const int narrow_tokens = NarrowTokens(s.head_dim, heads_max);
  layout.narrow.tiling =
      NarrowTiling(s.threads, s.max_tokens, s.q_heads, s.head_dim, s.max_context, NarrowRows(s.head_dim, heads_max));
  layout.narrow.tiling.tokens_max = std::min(narrow_tokens, longest);
  layout.narrow.tiling.causal = s.causal;
  if (longest > narrow_tokens) {
    layout.wide.tiling = WideTiling(s.threads, s.max_tokens, s.q_heads, s.head_dim, s.max_context);
    layout.wide.tiling.tokens_min = narrow_tokens + 1;
    layout.wide.tiling.tokens_max = longest;
    layout.wide.tiling.causal = s.causal;
  }
  layout.wide.partials = PartialFloats(layout.narrow.tiling, s.head_dim);
  Places places;
  places.Take((static_cast<size_t>(s.kv_heads) + 1) * sizeof(int32_t));  // heads_begin, at 0
  PlaceList(s, &places, &layout.narrow);
  PlaceList(s, &places, &layout.wide);
  layout.bytes = static_cast<int64_t>(places.used());
  return layout;
}

void MakeAttentionPlan(const ops::AttentionPlanShape& s, const ops::AttentionSequence* sequences, int sequence_count,
                       void* plan) {
  int64_t tokens = 0;
  for (int i = 0; i < sequence_count; ++i) {
    SHOAL_CHECK(sequences[i].row_count <= LongestOf(s));
    tokens += sequences[i].row_count;
  }
  SHOAL_CHECK(sequence_count <= s.max_sequences && tokens <= s.max_tokens);
  const std::span<int32_t> heads_begin(static_cast<int32_t*>(plan), static_cast<size_t>(s.kv_heads) + 1);
  PutHeadsBegin(MapOf(s), heads_begin);
  const AttentionPlanLayout layout = LayoutOf(s);
  for (const AttentionPlanLayout::List* l : {&layout.narrow, &layout.wide}) {
    if (l->tiling.workers == 0) continue;
    AttentionWork work = {.items = At<AttentionItem>(plan, l->items),
                          .first = At<int32_t>(plan, l->first),
                          .joins = At<AttentionJoin>(plan, l->joins)};
    MakeAttentionWork({sequences, static_cast<size_t>(sequence_count)}, heads_begin, l->tiling, &work);
    *At<int32_t>(plan, l->join_count) = work.join_count;
  }
}

void TakeAttentionPlan(const ops::AttentionPlanShape& s, const void* plan, float* workspace, Attention* op) {
  const AttentionPlanLayout layout = LayoutOf(s);
  op->heads_begin = static_cast<const int32_t*>(plan);
  op->narrow = ListAt(layout.narrow, plan, workspace);
  op->narrow_rows = layout.narrow.tiling.tile_rows;
  op->wide = ListAt(layout.wide, plan, workspace);
}

int64_t AttentionWorkspace(int threads, int tokens, int q_heads, int head_dim, int max_context) {
  // Narrow tiles have 8 rows or 16, as the heads are grouped.
  int64_t narrow = 0;
  for (const int rows : {8, 16}) {
    if (rows > 8 && head_dim > 128) continue;
    narrow =
        std::max(narrow, PartialFloats(NarrowTiling(threads, tokens, q_heads, head_dim, max_context, rows), head_dim));
  }
  return narrow + PartialFloats(WideTiling(threads, tokens, q_heads, head_dim, max_context), head_dim);
}

}  // namespace shoal::cuda
