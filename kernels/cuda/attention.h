// kernels/ops/attention.h on a device: decode and prefill by the same arithmetic.
//   out[t, h, :] = sum over the p that t sees of 2^(x_p - m) V[p, kv(h), :] / sum of 2^(x_p - m)
//   x_p = scale log2(e) q . K_p, or soft_cap log2(e) tanh(scale q . K_p / soft_cap) where there is a cap
// To the bit, for a (token, head) alone: q . K_p in f32 by mma over rising d. Key tiles of kAttentionTile at absolute
// positions in order: m = the greatest x so far, rounded up to an integer, so that rescaling is by powers of two;
// weights rounded to bf16, their sum and their products with V in f32 by mma. Each kAttentionSplit keys begin anew at
// an absolute position; splits fold in ascending order, an f32 fma for each element. A tile or a split that a row does
// not see changes nothing in it. So batch, chunks, blocks, lists of work and their workers do not show. What is not
// finite in V at positions that follow the row's in its own last tile shows as NaN if the same launch reads it (the
// later tokens of its own chunk), and so does what a window hides of the tiles that it does not hide as a whole;
// unwritten slots are never read.
#pragma once

#include "kernels/cuda/attention_work.h"
#include "kernels/cuda/lang.h"

namespace shoal::cuda {

// An AttentionWork on the device. Its arrays may be written anew between replays of a graph.
struct AttentionList {
  const AttentionItem* items = nullptr;
  const int32_t* first = nullptr;  // [workers + 1]
  const AttentionJoin* joins = nullptr;
  const int32_t* join_count = nullptr;
  float* partials = nullptr;  // [slots] of AttentionSlotFloats(); no other list's
  int workers = 0;            // 0: the list is not there
  int joins_max = 0;          // 0: no list has joins
};

struct Attention {
  const bf16* q;  // [tokens, q_heads, head_dim], token stride q_stride (elements, even)
  bf16* out;  // [tokens, q_heads, head_dim], contiguous; must not alias q; only rows of listed sequences are written
  int64_t q_stride;
  const bf16* k;  // [block][kv_head][block_size][head_dim], 16-byte aligned; written before
  const bf16* v;
  int block_size, kv_heads, head_dim;  // a power of two >= 16; any; a multiple of 16 up to 256
  int q_heads;
  float scale;                              // > 0
  const ops::AttentionSequence* sequences;  // on the device, as what follows
  const int32_t* heads_begin;               // [kv_heads + 1], PutHeadsBegin()
  // A worker of `narrow` is one warp that streams K and V by itself, made for decode; one of `wide` is a block whose
  // warps share what it copies, made for prefill.
  AttentionList narrow, wide;
  int narrow_rows;  // NarrowRows() of the largest group of heads; the tiling of `narrow`

  int window = 0;      // positions that a row sees, its own among them; 0: all before. Only of causal attention
  float soft_cap = 0;  // 0: none
  bool causal = true;  // or each row sees its whole sequence; as the lists were made
};
absl::Status Enqueue(DeviceStream stream, const Attention& op);

// Rows of a unit. A head_dim lies in the next of 64, 128 and 256.
SHOAL_HD constexpr int NarrowRows(int head_dim, int heads_max) { return head_dim <= 128 && heads_max > 8 ? 16 : 8; }
SHOAL_HD constexpr int WideRows(int head_dim) { return head_dim <= 128 ? 128 : 64; }
// Tokens up to which a sequence is better served by a narrow list: two tiles of rows, which read K and V twice.
SHOAL_HD constexpr int NarrowTokens(int head_dim, int heads_max) {
  const int tokens = 2 * NarrowRows(head_dim, heads_max) / heads_max;
  return tokens < 1 ? 1 : tokens;
}
// Narrow workers that a multiprocessor with so much shared memory holds at once; of wide ones it holds one.
int NarrowWorkers(int head_dim, int tile_rows, size_t shared_bytes);
// Floats of a list's partials for each slot: a slot holds the greatest exponent and the sum of each row, then its
// products.
SHOAL_HD constexpr int64_t AttentionSlotFloats(int tile_rows, int head_dim) {
  return static_cast<int64_t>(tile_rows) * (head_dim + 2);
}

}  // namespace shoal::cuda
