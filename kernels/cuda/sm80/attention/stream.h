// The K and V tiles of some splits, in order K, V, K, V, ..., by asynchronous copies through a ring in shared memory
// that is kSlots - 1 halves ahead. kThreads: of those who copy and read together, one warp or a whole block.
#pragma once

#include "kernels/cuda/attention.h"
#include "kernels/cuda/sm80/attention/tile.h"
#include "kernels/cuda/warp.h"

namespace shoal::cuda {

template <int kDim>
struct AttentionSlot {
  alignas(128) bf16 of[kAttentionTile * kDim];
};

template <int kThreads>
__device__ __forceinline__ void SyncReaders() {
  if constexpr (kThreads == 32) {
    SyncWarp();
  } else {
    __syncthreads();
  }
}

template <int kDim, int kSlots, int kThreads>
class KvStream {
 public:
  // Keys [tile_begin * kAttentionTile, keys_end) of the sequence whose blocks are `table`.
  __device__ __forceinline__ KvStream(const Attention& op, int block_shift, AttentionSlot<kDim>* slots,
                                      const int32_t* table, int kv_head, int tile_begin, int keys_end)
      : op_(op),
        slots_(slots),
        table_(table),
        block_shift_(block_shift),
        kv_head_(kv_head),
        tile_(tile_begin),
        keys_end_(keys_end) {
    LoadBlocks();
    SyncReaders<kThreads>();  // the ring may still be read for the item before
    SHOAL_UNROLL for (int i = 0; i < kSlots - 1; ++i) Issue();
  }
  // The next half tile; the one before it is no longer there.
  __device__ __forceinline__ const bf16* Take() {
    WaitCopies<kSlots - 2>();
    SyncReaders<kThreads>();
    Issue();
    return slots_[issued_].of;  // the slot after the one just filled, the last of a ring that is full
  }
  // After the last Take(): leaves no copy under way.
  __device__ __forceinline__ void Finish() { WaitCopies<0>(); }

 private:
  static constexpr int kChunks = kDim / 8;
  static constexpr int kKeysAtOnce = kThreads / kChunks;  // that one copy of each thread covers
  static constexpr int kRunKeys = kKeysAtOnce > kAttentionRun ? kKeysAtOnce : kAttentionRun;
  static constexpr int kRuns = kAttentionTile / kRunKeys;
  static_assert(kThreads % kChunks == 0 && kAttentionTile % kRunKeys == 0);

  // Of the keys that one copy of each thread covers: this thread's, and where the run that it lies in begins.
  __device__ __forceinline__ int OwnKey() const { return static_cast<int>(threadIdx.x) % kThreads / kChunks; }
  __device__ __forceinline__ int OwnRun() const { return OwnKey() / kAttentionRun * kAttentionRun; }

  // Read half a tile ahead of their use.
  __device__ __forceinline__ void LoadBlocks() {
    SHOAL_UNROLL for (int r = 0; r < kRuns; ++r) {
      const int key = tile_ * kAttentionTile + r * kRunKeys + OwnRun();
      block_[r] = key < keys_end_ ? table_[key >> block_shift_] : 0;
    }
  }
  __device__ __forceinline__ void Issue() {
    const int begin = tile_ * kAttentionTile;
    if (begin < keys_end_) {
      Copy(value_ ? op_.v : op_.k, begin);
      if (value_) {
        ++tile_;
        LoadBlocks();
      }
      value_ = !value_;
    }
    CommitCopies();  // an empty group keeps the count
    issued_ = issued_ + 1 == kSlots ? 0 : issued_ + 1;
  }
  // Zeros for what is beyond keys_end or head_dim; the addresses of those are some others of the same block.
  __device__ __forceinline__ void Copy(const bf16* side, int begin) {
    const int chunk = static_cast<int>(threadIdx.x) % kChunks, key = OwnKey(), mask = (1 << block_shift_) - 1;
    const bool there = 8 * chunk < op_.head_dim;
    const int keys = there ? keys_end_ - begin - key : 0;  // those that are left from this thread's first on
    bf16* ring = slots_[issued_].of;
    const int to = ChunkOffset<kDim>(key, chunk);
    SHOAL_UNROLL for (int r = 0; r < kRuns; ++r) {
      const int of_block = (begin + r * kRunKeys + OwnRun()) & mask;
      const bf16* from =
          side + (there ? 8 * chunk : 0) +
          CacheOffset(block_[r], of_block + key - OwnRun(), kv_head_, op_.kv_heads, op_.block_size, op_.head_dim);
      SHOAL_UNROLL for (int i = 0; i < kRunKeys; i += kKeysAtOnce) {
        CopyAsync16(ring + LaterKey<kDim>(to, r * kRunKeys + i), from, r * kRunKeys + i < keys);
        from += kKeysAtOnce * op_.head_dim;
      }
    }
  }

  const Attention& op_;
  AttentionSlot<kDim>* slots_;
  const int32_t* table_;
  int block_shift_, kv_head_, tile_, keys_end_;
  int issued_ = 0;      // the slot to fill next
  bool value_ = false;  // the next to issue is V
  int block_[kRuns];
};

}  // namespace shoal::cuda
