// Tested by: tests/kernels/cuda/attention_test.cc
// Folds the slots of units that were cut. A warp has 32 dims of a row at a time; its loads of kAtOnce slots do not wait
// for each other, so that 128 splits take eight times a load's latency.
#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/cuda/sm80/attention/attend.h"

namespace shoal::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kAtOnce = 16;
constexpr int kBlocksMax = 1024;  // beyond it the grid's warps take several rows in turn

// One dim of a row: the slots from `slot` on, of `stride` floats, whose statistics and dim lie at these offsets.
struct Column {
  const float* slot;
  int64_t stride;
  int statistics, dim, count;
};

__device__ __forceinline__ float JoinColumn(const Column& at) {
  float exponent = kNothing, sum = 0, product = 0;
  for (int begin = 0; begin < at.count; begin += kAtOnce) {
    float2 statistics[kAtOnce];
    float products[kAtOnce];
    SHOAL_UNROLL for (int i = 0; i < kAtOnce; ++i) {
      const float* slot = at.slot + (begin + i) * at.stride;
      const bool there = begin + i < at.count;
      statistics[i] = there ? *reinterpret_cast<const float2*>(slot + at.statistics) : make_float2(kNothing, 0);
      products[i] = there ? slot[at.dim] : 0;
    }
    SHOAL_UNROLL for (int i = 0; i < kAtOnce; ++i) {
      if (begin + i == 0) {
        exponent = statistics[i].x;
        sum = statistics[i].y;
        product = products[i];
        continue;
      }
      const float next = fmaxf(exponent, statistics[i].x);
      const float former = PowerOfTwo(exponent - next), own = PowerOfTwo(statistics[i].x - next);
      exponent = next;
      sum = Fold(sum, former, statistics[i].y, own);
      product = Fold(product, former, products[i], own);
    }
  }
  return Quotient(product, 1.0f / sum);
}

// Slots of splits that no row of the tile sees: nothing was written there. The first slot has all splits but the
// others'.
__device__ __forceinline__ int HiddenSlots(const Attention& op, const AttentionUnit& unit, const AttentionJoin& join,
                                           int tile_rows) {
  const int last = unit.Last(min((join.row_tile + 1) * tile_rows, unit.rows) - 1);
  const int last_of_first = last / kAttentionSplit + 1 - join.count;
  return max(FirstTile(op, unit, join.row_tile * tile_rows) / kTilesOfSplit - last_of_first, 0);
}

__global__ void __launch_bounds__(32 * kWarps, 4)
    JoinKernel(const __grid_constant__ Attention op, const __grid_constant__ AttentionList list, int tile_rows) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int parts = (op.head_dim + 31) / 32, of_join = tile_rows * parts;
  const int64_t total = static_cast<int64_t>(*list.join_count) * of_join;
  const int64_t stride = AttentionSlotFloats(tile_rows, op.head_dim);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + warp; i < total;
       i += static_cast<int64_t>(gridDim.x) * kWarps) {
    const AttentionJoin join = list.joins[i / of_join];
    const int of_tile = static_cast<int>(i % of_join) / parts, dim = static_cast<int>(i % of_join) % parts * 32 + lane;
    const AttentionUnit unit = UnitOf<true>(op, join.sequence, join.kv_head);
    const int row = join.row_tile * tile_rows + of_tile;
    if (row >= unit.rows || dim >= op.head_dim) continue;
    const int hidden = op.window > 0 ? HiddenSlots(op, unit, join, tile_rows) : 0;
    const float y = JoinColumn({list.partials + (join.slot + hidden) * stride, stride, 2 * of_tile,
                                2 * tile_rows + of_tile * op.head_dim + dim, join.count - hidden});
    op.out[unit.Head(row) * op.head_dim + dim] = FromFloat<bf16>(y);
  }
}

absl::Status Check(const Attention& op) {
  if (op.head_dim < 16 || op.head_dim > 256 || op.head_dim % 16 != 0) {
    return absl::InvalidArgumentError("attention: head_dim is no multiple of 16 up to 256");
  }
  if (op.block_size < kAttentionRun || !std::has_single_bit(static_cast<unsigned>(op.block_size))) {
    return absl::InvalidArgumentError("attention: the block size is no power of two from 16 on");
  }
  if (!(op.scale > 0) || !std::isfinite(op.scale))
    return absl::InvalidArgumentError("attention: the scale is not above 0");
  if (op.window < 0 || (op.window > 0 && !op.causal)) {
    return absl::InvalidArgumentError("attention: a window below 0, or of rows without an order");
  }
  if (!(op.soft_cap >= 0) || !std::isfinite(op.soft_cap)) {
    return absl::InvalidArgumentError("attention: the soft cap is below 0");
  }
  if (op.q_stride % 2 != 0) return absl::InvalidArgumentError("attention: the stride of q is odd");
  if (op.narrow.workers > 0 && op.narrow_rows != 8 && (op.narrow_rows != 16 || op.head_dim > 128)) {
    return absl::InvalidArgumentError("attention: narrow rows are neither 8 nor, with head_dim up to 128, 16");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status EnqueueJoins(DeviceStream stream, const Attention& op, const AttentionList& list, int tile_rows) {
  const int64_t warps = static_cast<int64_t>(list.joins_max) * tile_rows * ((op.head_dim + 31) / 32);
  const int64_t blocks = std::min<int64_t>((warps + kWarps - 1) / kWarps, kBlocksMax);
  return Launch(stream, "attention, join", {dim3{static_cast<unsigned>(blocks)}, dim3{32 * kWarps}, 0}, JoinKernel, op,
                list, tile_rows);
}

absl::Status Enqueue(DeviceStream stream, const Attention& op) {
  if (absl::Status checked = Check(op); !checked.ok()) return checked;
  if (op.narrow.workers > 0) {
    if (absl::Status queued = EnqueueNarrow(stream, op); !queued.ok()) return queued;
  }
  if (op.wide.workers > 0) {
    if (absl::Status queued = EnqueueWide(stream, op); !queued.ok()) return queued;
  }
  if (op.narrow.joins_max > 0) {
    if (absl::Status queued = EnqueueJoins(stream, op, op.narrow, op.narrow_rows); !queued.ok()) return queued;
  }
  return op.wide.joins_max > 0 ? EnqueueJoins(stream, op, op.wide, WideRows(op.head_dim)) : absl::OkStatus();
}

}  // namespace shoal::cuda
