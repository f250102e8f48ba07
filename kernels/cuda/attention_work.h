// Who does what in attention.h: a list of items for a fixed number of workers, made on the host from what it knows of a
// step (rows and positions) and read by the kernels. A result does not depend on the list.
//
// A unit is (sequence, kv head, tile of rows) with all context splits that its last row sees, or, when attention is not
// causal, all of the sequence. A list serves layers with a window and without: what a window hides is passed over
// there. Workers take the splits of all units in order, each about as many key tiles as the next; a border between two
// workers inside a unit cuts it, and its splits meet in slots of the list's partials (attention.h), which a join folds.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "kernels/ops/attention.h"

namespace shoal::cuda {

// Keys of one step of the online softmax, and of what one worker sums before it folds; both at absolute positions.
// 256: a warp alone takes some 2 us for it, so batch 1 spreads over all multiprocessors from 32,768 keys x heads on,
// and folding costs a prefill under a tenth of its operations.
inline constexpr int kAttentionTile = 64;
inline constexpr int kAttentionSplit = 256;

// Rows of a unit are (token, query head of the kv head): row r is token r / heads, head r % heads.
struct AttentionItem {
  int32_t sequence, kv_head, row_tile;
  int32_t split_begin, split_end;
  // -1: the item is its whole unit and writes its rows' outputs. Otherwise the slot of what it sums: of all its splits
  // in one when split_begin == 0, else of each in its own, slot + i for split_begin + i.
  int32_t slot;
};
// A unit that was cut: its splits in ascending order are the slots [slot, slot + count).
struct AttentionJoin {
  int32_t sequence, kv_head, row_tile;
  int32_t slot, count;
};

struct AttentionTiling {
  int tile_rows;  // NarrowRows() or WideRows() of attention.h
  int workers;    // of the launch: its warps when narrow, its blocks when wide
  int slots;      // of the partials; a unit is cut only while there are slots for it
  // Only sequences with so many tokens; the others are another list's.
  int tokens_min = 1, tokens_max = std::numeric_limits<int>::max();
  bool causal = true;
};
// A list, in memory of the caller's.
struct AttentionWork {
  AttentionItem* items;                           // [AttentionItemsMax()]
  int32_t* first;                                 // [workers + 1]: worker w has the items [first[w], first[w + 1])
  AttentionJoin* joins;                           // [workers]
  int item_count = 0, join_count = 0, slots = 0;  // used
};

// Fills `work`. Of the sequences only rows and positions are read. heads_begin [kv_heads + 1]: the query heads of kv
// head h are [heads_begin[h], heads_begin[h + 1]). Allocates nothing: it is done for each step.
void MakeAttentionWork(std::span<const ops::AttentionSequence> sequences, std::span<const int32_t> heads_begin,
                       const AttentionTiling& tiling, AttentionWork* work);

// Items of any list of at most `sequences` sequences with `tokens` tokens together. q_to_kv as in ops/attention.h.
int64_t AttentionItemsMax(int sequences, int tokens, std::span<const int32_t> q_to_kv, const AttentionTiling& tiling);

// heads_begin of q_to_kv.
void PutHeadsBegin(std::span<const int32_t> q_to_kv, std::span<int32_t> heads_begin);
// Of the kv head that most query heads share.
int HeadsMax(std::span<const int32_t> q_to_kv);

}  // namespace shoal::cuda
