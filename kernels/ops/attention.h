// out[t, h, :] = softmax over the positions p that t sees of score(t, h, p), times V[p, kv(h), :], with
//   score = scale * q[t, h, :] . K[p, kv(h), :],   or soft_cap * tanh(that / soft_cap) when there is a cap
// A token at position pos sees p <= pos; with a window only p > pos - window of these; when attention is not causal all
// p of its sequence's last row and before, which are in the cache then.
// K and V are read only from the cache, after rounding, also for tokens of the current chunk (written before by
// rope_kv). Exactness: key tiles lie at absolute positions (multiples of kKeyTile) and combine in ascending order by
// online softmax; long contexts are split at absolute multiples of kContextSplit, and the splits combine in order. So a
// token's result depends on its own q and context alone, not on the chunking, the batch or the threads
// (not causal: the chunk is the sequence). Tiles and splits that a window hides as a whole may be passed over.
#pragma once

#include "absl/status/status.h"
#include "kernels/ops/acts.h"
#include "kernels/ops/kv_cache.h"
#include "kernels/ops/stream.h"

namespace shoal::ops {

inline constexpr int kKeyTile = 32;
inline constexpr int kContextSplit = 1024;

// The rows [row_begin, row_begin + row_count) of the batch are consecutive tokens of one sequence, the first at
// `position`.
struct AttentionSequence {
  const int32_t* block_table;  // covers positions [0, position + row_count)
  int row_begin;
  int row_count;
  int position;
};
struct AttentionPlanShape;
struct AttentionArgs {
  ConstActs q;  // [tokens, q_heads, head_dim], token stride q_stride (floats)
  Acts out;     // [tokens, q_heads, head_dim], contiguous; must not alias q
  int64_t q_stride;
  KvLayer cache;
  const AttentionSequence* sequences;  // [sequence_count], disjoint rows
  int sequence_count;
  const int32_t* q_to_kv;  // [q_heads]: local kv head of each local query head, non-decreasing
  int q_heads;
  int q_head_begin;  // this rank's first query head, counted over the whole model
  float scale;
  float* workspace;    // at least attention_workspace(...) floats
  int window = 0;      // positions, its own among them; 0: no window. Only of causal attention
  float soft_cap = 0;  // 0: none
  bool causal = true;
  const void* plan = nullptr;  // what attention_plan wrote for these sequences; null where the backend has none
  const AttentionPlanShape* plan_shape = nullptr;  // that it was written for, in host memory; read during the call
};
// The positions that row `row` of a sequence sees are [FirstSeen, EndSeen).
inline int EndSeen(const AttentionArgs& a, const AttentionSequence& s, int row) {
  return s.position + (a.causal ? row + 1 : s.row_count);
}
inline int FirstSeen(const AttentionArgs& a, const AttentionSequence& s, int row) {
  const int first = s.position + row + 1 - a.window;
  return a.window > 0 && first > 0 ? first : 0;
}
using AttentionFn = absl::Status (*)(Stream&, const AttentionArgs&);

// Floats of workspace for a batch of at most `tokens` rows and contexts of at most `max_context` tokens.
using AttentionWorkspaceFn = int64_t (*)(int threads, int tokens, int q_heads, int head_dim, int max_context);

// What a backend wants to know about all calls that share a plan. `threads` is Stream::threads().
struct AttentionPlanShape {
  int threads;
  int max_tokens, max_sequences, max_context;  // of a batch
  const int32_t* q_to_kv;                      // [q_heads], in host memory
  int q_heads, kv_heads, head_dim;
  int max_rows = 0;    // of one sequence in a batch; 0: max_tokens. 1 where all batches decode: then less is launched
  bool causal = true;  // as of all calls
};
// Which part of a batch's attention is whose is decided on the host, once for all layers of a step. A backend that does
// so says how many bytes its decision takes, at most, for such batches (a multiple of 16, the same whatever the batch),
// and writes them for one of them; they are copied to where AttentionArgs::plan says, 16-byte aligned. Where things lie
// in a plan follows from its shape: a recorded call can be replayed with the plan of another batch at the same address.
// Writing allocates nothing and does not read the block tables. Both null: nothing is decided.
using AttentionPlanBytesFn = int64_t (*)(const AttentionPlanShape&);
using AttentionPlanFn = void (*)(const AttentionPlanShape&, const AttentionSequence* sequences, int sequence_count,
                                 void* plan);

}  // namespace shoal::ops
