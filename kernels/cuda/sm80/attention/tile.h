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
// From the offset of (key, chunk) to that of (key + keys, chunk), where key and keys have no bit in common, and to that
// of (key, chunk + 2 pairs), where chunk and 2 pairs have none: cheap for what is known when compiled.
template <int kDim>
SHOAL_HD constexpr int LaterKey(int offset, int keys) {
  return keys * kDim + (offset ^ 8 * (keys & 7));
}
SHOAL_HD constexpr int LaterChunks(int offset, int pairs) { return offset ^ 16 * pairs; }
// What lane `lane` gives ldmatrix for keys [16 t, 16 t + 16) x dims [16 s, 16 s + 16): as a K fragment, whose rows are
// keys, and transposed as a V fragment, whose rows are dims.
template <int kDim>
SHOAL_HD constexpr int KeyFragmentOffset(int lane, int t, int s) {
  return LaterChunks(ChunkOffset<kDim>(lane % 16, lane / 16), s) + 16 * t * kDim;
}
template <int kDim>
SHOAL_HD constexpr int ValueFragmentOffset(int lane, int t, int s) {
  return LaterChunks(ChunkOffset<kDim>(lane % 8 + lane / 16 * 8, lane / 8 % 2), s) + 16 * t * kDim;
}

// The first element of a cached head row.
SHOAL_HD constexpr int64_t CacheOffset(int64_t block, int key_of_block, int kv_head, int kv_heads, int block_size,
                                       int head_dim) {
  return ((block * kv_heads + kv_head) * block_size + key_of_block) * head_dim;
}

}  // namespace shoal::cuda
