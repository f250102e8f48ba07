// Puts codes and numbers where linear_layout.h says; on the host at load, on a device where it makes weights itself.
#pragma once

#include <cstring>

#include "kernels/cuda/linear_layout.h"

namespace shoal::cuda::linear {

SHOAL_HD inline int64_t TilesOf(int64_t n) { return (n + kRowTile - 1) / kRowTile; }
// Blocks in the unit that `block` of a row of `blocks` is in.
SHOAL_HD inline int BlocksOfUnit(int64_t block, int64_t blocks) { return (block | 1) < blocks ? 2 : 1; }

// Eight columns of a block, from column 8 part on.
SHOAL_HD inline void PutCodes(const BlockQ8_0& b, int part, uint8_t* to) { memcpy(to, b.q + 8 * part, 8); }
template <typename Block>
SHOAL_HD void PutCodes(const Block& b, int part, uint8_t* to) {
  uint32_t word = 0;
  for (int i = 0; i < 8; ++i) {
    const int column = 8 * part + i;
    const uint32_t code = column < 16 ? b.q[column] & 15u : b.q[column - 16] >> 4;
    word |= code << (i / 2 * 4 + i % 2 * 16);
  }
  memcpy(to, &word, 4);
}

// Block `index` of `blocks` of row `row` of its tile.
template <typename Block>
SHOAL_HD void PutBlock(const Block& b, BlockLayout l, int row, int64_t index, int64_t blocks, uint8_t* tile) {
  const int g = row % 8, high = row / 8, of_unit = BlocksOfUnit(index, blocks), at = static_cast<int>(index % 2);
  uint8_t* const unit = tile + UnitOffset(l, index / 2);
  for (int part = 0; part < 4; ++part) PutCodes(b, part, unit + CodeOffset(l, of_unit, g * 4 + part, at, high));
  memcpy(unit + NumberOffset(l, of_unit, g, at, high, 0), &b.d, 2);
  if constexpr (requires { b.z; }) memcpy(unit + NumberOffset(l, of_unit, g, at, high, 1), &b.z, 2);
  if constexpr (requires { b.m; }) memcpy(unit + NumberOffset(l, of_unit, g, at, high, 1), &b.m, 2);
}

}  // namespace shoal::cuda::linear
