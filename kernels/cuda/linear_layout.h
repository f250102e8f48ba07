// Where the bytes of a block-quantised weight lie in device memory. It costs no byte beyond the canonical ones, but for
// rows of zeros that fill the last tile.
//   tile  16 rows, all k
//   unit  64 k of a tile (32 at the end of an odd number of blocks): what a warp multiplies in one step
//         { codes: of 8 bits: of each block together, of each lane 8 columns of row g, then of row g + 8;
//                  of 4 bits: of each lane together, of each of its blocks 8 columns of row g, then of row g + 8;
//           numbers: of each g together, of each block: scales of rows g and g + 8, then (Q4_1) their minima or (int4)
//           their zero points; f16, zero points as integers of 16 bits }
// with g = lane / 4 and columns 8 (lane % 4) .. + 7 of a block of 32: the rows and columns that the lane brings to Mma
// as A, so that it loads its codes of a unit with 16-byte accesses, 32 lanes side by side. Eight codes of 8 bits are
// bytes in rising k; eight Q4 codes a 32-bit word, column 2j in bits 4j .. 4j + 3 and column 2j + 1 in those 16 higher.
#pragma once

#include "common/base/dtype.h"
#include "kernels/cuda/lang.h"

namespace shoal::cuda::linear {

inline constexpr int kRowTile = 16;
inline constexpr int kLanes = 32;

struct BlockLayout {
  int code_bytes;    // of 8 columns of a row
  int number_bytes;  // of the scales and minima of one block of rows g and g + 8

  // Of one block of 32 columns of a tile: 16 canonical blocks.
  SHOAL_HD constexpr int BlockBytes() const { return kLanes * 2 * code_bytes + kRowTile / 2 * number_bytes; }
};
SHOAL_HD constexpr BlockLayout LayoutOf(DType type) {
  switch (type) {
    case DType::kQ8_0:
      return {8, 4};
    case DType::kQ4_1:
    case DType::kI4:
      return {4, 8};
    default:
      return {4, 4};
  }
}

SHOAL_HD constexpr int64_t TileBytes(BlockLayout l, int64_t k) { return k / kQuantBlock * l.BlockBytes(); }
SHOAL_HD constexpr int64_t UnitOffset(BlockLayout l, int64_t unit) { return 2 * unit * l.BlockBytes(); }

// Within a unit of `blocks` (1 or 2) blocks: the 8 codes of `block` of row g + 8 high that `lane` brings.
SHOAL_HD constexpr int CodeOffset(BlockLayout l, int blocks, int lane, int block, int high) {
  const int pair =
      l.code_bytes == 8 ? block * kLanes + lane : lane * blocks + block;  // of 8 bits: a pair fills 16 bytes
  return (pair * 2 + high) * l.code_bytes;
}
// The scale (kind 0) or minimum (kind 1) of row g + 8 high.
SHOAL_HD constexpr int NumberOffset(BlockLayout l, int blocks, int g, int block, int high, int kind) {
  return kLanes * 2 * l.code_bytes * blocks + (g * blocks + block) * l.number_bytes + kind * 4 + high * 2;
}

}  // namespace shoal::cuda::linear
