// Where the elements of a key tile lie: in the paged cache, in shared memory, in fragments of a warp's products.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_work.h"
#include "kernels/cuda/lang.h"

namespace shoal::cuda {

inline constexpr int kAttentionRun = 16;  // keys that surely share a block, as a block is no smaller
inline constexpr int kTilesOfSplit = kAttentionSplit / kAttentionTile;

// In shared memory a tile is [key][kDim] in 16-byte chunks, whose low three bits are turned by the key's: eight
// neighbouring keys' same chunk lie in different banks, for ldmatrix, and so do neighbouring chunks of a key, for
// copies.
template <int kDim>
SHOAL_HD constexpr int ChunkOffset(int key, int chunk) {
  return key * kDim + 8 * (chunk ^ (key & 7));
}
// From the offset of (key, chunk) to that of (key + keys, chunk), where key and keys have no bit in common: cheap for
// keys that are known when compiled.
template <int kDim>
SHOAL_HD constexpr int LaterKey(int offset, int keys) {
  return keys * kDim + (offset ^ 8 * (keys & 7));
}
// What lane `lane` gives ldmatrix for keys [0, 16) x dims [0, 16): as a K fragment, whose rows are keys, and transposed
// as a V fragment, whose rows are dims.
template <int kDim>
SHOAL_HD constexpr int KeyFragmentOffset(int lane) {
  return ChunkOffset<kDim>(lane % 16, lane / 16);
}
template <int kDim>
SHOAL_HD constexpr int ValueFragmentOffset(int lane) {
  return ChunkOffset<kDim>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
}
// From there to keys [16 t, 16 t + 16) x dims [16 s, 16 s + 16).
template <int kDim>
SHOAL_HD constexpr int LaterFragment(int first, int t, int s) {
  return (first ^ 16 * s) + 16 * t * kDim;
}

// The first element of a cached head row.
SHOAL_HD constexpr int64_t CacheOffset(int64_t block, int key_of_block, int kv_head, int kv_heads, int block_size,
                                       int head_dim) {
  return ((block * kv_heads + kv_head) * block_size + key_of_block) * head_dim;
}

}  // namespace shoal::cuda
