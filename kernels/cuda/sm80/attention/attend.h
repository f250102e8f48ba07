// The kernel of attention.h for one shape of worker: a block of kWarps warps that share K and V tiles and have 8
// kColumns rows each. A warp sums a split in registers; what it has of the splits before waits in shared memory
// meanwhile.
#pragma once

#include <bit>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/sm80/attention/rows.h"
#include "kernels/cuda/sm80/attention/stream.h"

namespace shoal::cuda {

// On a multiprocessor, with all the registers that a thread can have.
inline constexpr int kWarpsHeld = 8;

template <int kDim, int kColumns, int kWarps, int kSlots>
struct AttendShared {
  AttentionSlot<kDim> ring[kSlots];
  float4 former[kDim / 16 * kColumns][32 * kWarps];  // each thread's own
};

template <bool kGeneral>
__device__ __forceinline__ AttentionUnit UnitOf(const Attention& op, int sequence, int kv_head) {
  const ops::AttentionSequence s = op.sequences[sequence];
  const int begin = op.heads_begin[kv_head], heads = op.heads_begin[kv_head + 1] - begin;
  const bool causal = !kGeneral || op.causal;
  const int position = causal ? s.position : s.position + s.row_count - 1;
  return {heads, s.row_count * heads, begin, s.row_begin, position, op.q_heads, causal};
}

// What a warp's rows have of an item's splits before the running one.
template <int kDim, int kColumns, int kThreads, bool kGeneral>
class FormerSplits {
 public:
  using Rows = AttentionRows<kDim, kColumns, kGeneral>;
  __device__ __forceinline__ explicit FormerSplits(float4 (*products)[kThreads]) : products_(products) {}

  __device__ __forceinline__ void Keep(const Rows& rows) {
    const int g = static_cast<int>(threadIdx.x) % 32 / 4;
    SHOAL_UNROLL for (int c = 0; c < kColumns; ++c) {
      SHOAL_UNROLL for (int i = 0; i < 2; ++i) {
        if (g == 4 * c + i) statistic_ = rows.exponent[c][i];
        if (g == 4 * c + 2 + i) statistic_ = rows.sum[c][i];
      }
      SHOAL_UNROLL for (int s = 0; s < Rows::kSteps; ++s) {
        const float(&p)[4] = rows.products[s][c];
        products_[s * kColumns + c][threadIdx.x] = {p[0], p[1], p[2], p[3]};
      }
    }
  }
  // rows = what was kept, then rows.
  __device__ __forceinline__ void FoldInto(Rows& rows) const {
    SHOAL_UNROLL for (int c = 0; c < kColumns; ++c) {
      float former[2], own[2];
      SHOAL_UNROLL for (int i = 0; i < 2; ++i) {
        const float exponent = Statistic(4 * c + i), sum = Statistic(4 * c + 2 + i);
        const float next = fmaxf(exponent, rows.exponent[c][i]);
        former[i] = PowerOfTwo(exponent - next);
        own[i] = PowerOfTwo(rows.exponent[c][i] - next);
        rows.exponent[c][i] = next;
        rows.sum[c][i] = Fold(sum, former[i], rows.sum[c][i], own[i]);
      }
      SHOAL_UNROLL for (int s = 0; s < Rows::kSteps; ++s) {
        const float4 f = products_[s * kColumns + c][threadIdx.x];
        float(&p)[4] = rows.products[s][c];
        p[0] = Fold(f.x, former[0], p[0], own[0]);
        p[1] = Fold(f.y, former[1], p[1], own[1]);
        p[2] = Fold(f.z, former[0], p[2], own[0]);
        p[3] = Fold(f.w, former[1], p[3], own[1]);
      }
    }
  }

 private:
  // Statistics are the same in the eight lanes that share rows: each keeps one, for registers.
  static_assert(4 * kColumns <= 8);
  __device__ __forceinline__ float Statistic(int g) const {
    return Shuffle(statistic_, 4 * g + static_cast<int>(threadIdx.x) % 4);
  }

  float4 (*products_)[kThreads];
  float statistic_ = 0;
};

// Rows [row, row + 8 kColumns) of the unit, which begin at `row_of_tile` of the slot's rows.
template <int kDim, int kColumns, bool kGeneral>
__device__ __forceinline__ void StoreSlot(const AttentionRows<kDim, kColumns, kGeneral>& rows,
                                          const AttentionUnit& unit, int row, int row_of_tile, int tile_rows,
                                          int head_dim, float* slot) {
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  SHOAL_UNROLL for (int c = 0; c < kColumns; ++c) {
    SHOAL_UNROLL for (int i = 0; i < 2; ++i) {
      const int of_warp = 8 * c + 2 * t + i, of_tile = row_of_tile + of_warp;
      if (row + of_warp >= unit.rows) continue;
      if (g == 0) {
        *reinterpret_cast<float2*>(slot + 2 * of_tile) = make_float2(rows.exponent[c][i], rows.sum[c][i]);
      }
      float* to = slot + 2 * tile_rows + of_tile * head_dim + g;
      SHOAL_UNROLL for (int s = 0; s < kDim / 16; ++s) {
        if (16 * s >= head_dim) continue;
        to[16 * s] = rows.products[s][c][i];
        to[16 * s + 8] = rows.products[s][c][i + 2];
      }
    }
  }
}

template <int kDim, int kColumns, bool kGeneral>
__device__ __forceinline__ void StoreOut(const AttentionRows<kDim, kColumns, kGeneral>& rows, const AttentionUnit& unit,
                                         int row, int head_dim, bf16* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  SHOAL_UNROLL for (int c = 0; c < kColumns; ++c) {
    const float inverse[2] = {1.0f / rows.sum[c][0], 1.0f / rows.sum[c][1]};
    const int own = row + 8 * c + g;
    const bool there = own < unit.rows;
    bf16* to = out + (there ? unit.Head(own) * head_dim + 2 * t : 0);
    SHOAL_UNROLL for (int s = 0; s < kDim / 16; ++s) {
      SHOAL_UNROLL for (int half = 0; half < 2; ++half) {
        const float(&p)[4] = rows.products[s][c];
        const uint32_t dims =
            Transpose(PackBf16(Quotient(p[2 * half], inverse[0]), Quotient(p[2 * half + 1], inverse[1])));
        if (there && 16 * s < head_dim) *reinterpret_cast<uint32_t*>(to + 16 * s + 8 * half) = dims;
      }
    }
  }
}

template <bool kGeneral, int kDim, int kColumns, int kWarps, int kSlots>
__device__ __forceinline__ void AttendItem(const Attention& op, int block_shift, const AttentionList& list,
                                           const AttentionItem& item,
                                           AttendShared<kDim, kColumns, kWarps, kSlots>& shared) {
  using Rows = AttentionRows<kDim, kColumns, kGeneral>;
  constexpr int kThreads = 32 * kWarps, kTileRows = 8 * kColumns * kWarps;
  const AttentionUnit unit = UnitOf<kGeneral>(op, item.sequence, item.kv_head);
  // Read again where rows are stored: to keep it meanwhile would cost registers that head_dim 256 has not.
  const auto unit_again = [&] { return UnitOf<kGeneral>(op, item.sequence, item.kv_head); };
  const int row_of_tile = static_cast<int>(threadIdx.x) / 32 * 8 * kColumns;
  const int row = item.row_tile * kTileRows + row_of_tile;
  const int keys = unit.Last(min((item.row_tile + 1) * kTileRows, unit.rows) - 1) + 1;
  const int keys_end = min(keys, item.split_end * kAttentionSplit);
  const AttentionScale scale = kGeneral ? ScaleOf(op) : AttentionScale{__fmul_rn(op.scale, 1.44269504f), 0};  // log2(e)
  float* slot = list.partials + item.slot * AttentionSlotFloats(kTileRows, op.head_dim);
  int first_tile = item.split_begin * kTilesOfSplit, first_split = item.split_begin;
  if (kGeneral && op.window > 0) {
    first_tile = max(first_tile, FirstTile(op, unit, item.row_tile * kTileRows));
    first_split = first_tile / kTilesOfSplit;
    if (first_split >= item.split_end) return;  // none of the tile's rows sees any of it, and no join looks for it
    if (item.split_begin > 0) slot += (first_split - item.split_begin) * AttentionSlotFloats(kTileRows, op.head_dim);
  }
  KvStream<kDim, kSlots, kThreads> stream(op, block_shift, shared.ring, op.sequences[item.sequence].block_table,
                                          item.kv_head, first_tile, keys_end);
  Rows rows;
  rows.Load(op, unit, row);
  FormerSplits<kDim, kColumns, kThreads, kGeneral> former(shared.former);
  const bool apart = item.slot >= 0 && item.split_begin > 0;  // each split to a slot of its own
  for (int split = first_split; split < item.split_end; ++split) {
    rows.BeginSplit();
    const int tile_end = min((split + 1) * kTilesOfSplit, (keys_end + kAttentionTile - 1) / kAttentionTile);
    for (int tile = kGeneral ? max(split * kTilesOfSplit, first_tile) : split * kTilesOfSplit; tile < tile_end;
         ++tile) {
      uint32_t weights[Rows::kKeySteps][kColumns][2];
      const bf16* k = stream.Take();
      if (rows.Sees(op, tile)) rows.Weigh(op, k, tile, scale, weights);
      const bf16* v = stream.Take();
      if (rows.Sees(op, tile)) rows.Add(v, weights);
    }
    if (apart) {
      StoreSlot(rows, unit_again(), row, row_of_tile, kTileRows, op.head_dim, slot);
      slot += AttentionSlotFloats(kTileRows, op.head_dim);
      continue;
    }
    if (split > first_split) former.FoldInto(rows);
    if (split + 1 < item.split_end) former.Keep(rows);
  }
  stream.Finish();
  if (item.slot < 0) {
    StoreOut(rows, unit_again(), row, op.head_dim, op.out);
  } else if (!apart) {
    StoreSlot(rows, unit_again(), row, row_of_tile, kTileRows, op.head_dim, slot);
  }
}

// 1: for more blocks on a multiprocessor the compiler would save registers by spilling some.
template <bool kGeneral, int kDim, int kColumns, int kWarps, int kSlots>
__global__ void __launch_bounds__(32 * kWarps, 1)
    AttendKernel(const __grid_constant__ Attention op, const __grid_constant__ AttentionList list, int block_shift) {
  auto& shared = Shared<AttendShared<kDim, kColumns, kWarps, kSlots>>();
  const int end = list.first[blockIdx.x + 1];
  for (int i = list.first[blockIdx.x]; i < end; ++i) {
    AttendItem<kGeneral, kDim, kColumns, kWarps, kSlots>(op, block_shift, list, list.items[i], shared);
  }
}

template <int kDim, int kColumns, int kWarps, int kSlots>
absl::Status LaunchAttend(DeviceStream stream, const char* name, const Attention& op, const AttentionList& list) {
  const LaunchShape shape = {dim3{static_cast<unsigned>(list.workers)}, dim3{32 * kWarps},
                             sizeof(AttendShared<kDim, kColumns, kWarps, kSlots>)};
  const bool general = op.window > 0 || op.soft_cap > 0 || !op.causal;
  const auto kernel = general ? AttendKernel<true, kDim, kColumns, kWarps, kSlots>
                              : AttendKernel<false, kDim, kColumns, kWarps, kSlots>;
  return Launch(stream, name, shape, kernel, op, list, std::countr_zero(static_cast<unsigned>(op.block_size)));
}

// The other parts of Enqueue(); sizes were checked.
absl::Status EnqueueNarrow(DeviceStream stream, const Attention& op);
absl::Status EnqueueWide(DeviceStream stream, const Attention& op);
absl::Status EnqueueJoins(DeviceStream stream, const Attention& op, const AttentionList& list, int tile_rows);

}  // namespace shoal::cuda
