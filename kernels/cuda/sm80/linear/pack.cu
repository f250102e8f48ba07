// Tested by: tests/kernels/cuda/linear_test.cc
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cuda/linear.h"
#include "kernels/cuda/linear_layout.h"

namespace shoal::cuda {
namespace {

using linear::BlockLayout;

int64_t Tiles(int64_t n) { return (n + linear::kRowTile - 1) / linear::kRowTile; }

bool InTiles(DType type) { return IsQuantised(type) || IsByte(type); }

// Eight columns of a block, from column 8 part on, as linear_layout.h orders their codes.
void PutCodes(const BlockQ8_0& b, int part, uint8_t* to) { std::memcpy(to, b.q + 8 * part, 8); }
template <typename Block>
void PutCodes(const Block& b, int part, uint8_t* to) {
  uint32_t word = 0;
  for (int i = 0; i < 8; ++i) {
    const int column = 8 * part + i;
    const uint32_t code = column < 16 ? b.q[column] & 15u : b.q[column - 16] >> 4;
    word |= code << (i / 2 * 4 + i % 2 * 16);
  }
  std::memcpy(to, &word, 4);
}

// Row `row` of its tile.
void PackBytes(DType type, const uint8_t* src, BlockLayout l, int row, int64_t k, uint8_t* tile) {
  bool numbers = true;
  for (int64_t c = 0; c < k; c += 8) {
    const int64_t block = c / kQuantBlock, unit = block / 2;
    const int in_unit = 2 * unit + 1 < k / kQuantBlock ? 2 : 1,
              lane = row % 8 * 4 + static_cast<int>(c % kQuantBlock / 8);
    uint8_t* to = tile + linear::UnitOffset(l, unit);
    std::memcpy(to + linear::CodeOffset(l, in_unit, lane, static_cast<int>(block % 2), row / 8), src + c, 8);
    for (int64_t i = c; i < c + 8; ++i) numbers &= (src[i] & 127) != 127;
  }
  if (type != DType::kF8E4M3) return;
  const float factor = numbers ? 1.0f : std::numeric_limits<float>::quiet_NaN();
  std::memcpy(tile + linear::FactorOffset(l, k, row), &factor, sizeof(factor));
}
template <typename Block>
void PackRow(const void* src, BlockLayout l, int row, int64_t k, uint8_t* tile) {
  const int g = row % 8, high = row / 8;
  const int64_t blocks = k / kQuantBlock;
  for (int64_t i = 0; i < blocks; ++i) {
    const auto& b = static_cast<const Block*>(src)[i];
    const int in_unit = i / 2 * 2 + 1 < blocks ? 2 : 1, at = static_cast<int>(i % 2);
    uint8_t* unit = tile + linear::UnitOffset(l, i / 2);
    for (int part = 0; part < 4; ++part) {
      PutCodes(b, part, unit + linear::CodeOffset(l, in_unit, g * 4 + part, at, high));
    }
    std::memcpy(unit + linear::NumberOffset(l, in_unit, g, at, high, 0), &b.d, 2);
    if constexpr (requires { b.m; }) std::memcpy(unit + linear::NumberOffset(l, in_unit, g, at, high, 1), &b.m, 2);
  }
}

}  // namespace

size_t LinearBytes(DType type, int64_t n, int64_t k) {
  if (!InTiles(type)) return RowBytes(type, k) * static_cast<size_t>(n);
  return static_cast<size_t>(Tiles(n) * linear::TileBytes(linear::LayoutOf(type), k));
}

void PackLinear(DType type, const void* src, int64_t row_begin, int64_t rows, int64_t k, void* dst) {
  const size_t row_bytes = RowBytes(type, k);
  const auto* from = static_cast<const uint8_t*>(src);
  auto* to = static_cast<uint8_t*>(dst);
  if (!InTiles(type)) {
    std::memcpy(to + row_bytes * static_cast<size_t>(row_begin), from, row_bytes * static_cast<size_t>(rows));
    return;
  }
  const BlockLayout l = linear::LayoutOf(type);
  const std::vector<uint8_t> zeros(row_bytes);
  for (int64_t r = 0; r < Tiles(rows) * linear::kRowTile; ++r) {
    const uint8_t* row = r < rows ? from + row_bytes * static_cast<size_t>(r) : zeros.data();
    uint8_t* tile = to + (row_begin + r) / linear::kRowTile * linear::TileBytes(l, k);
    const int in_tile = static_cast<int>(r % linear::kRowTile);
    if (IsByte(type)) PackBytes(type, row, l, in_tile, k, tile);
    if (type == DType::kQ8_0) PackRow<BlockQ8_0>(row, l, in_tile, k, tile);
    if (type == DType::kQ4_0) PackRow<BlockQ4_0>(row, l, in_tile, k, tile);
    if (type == DType::kQ4_1) PackRow<BlockQ4_1>(row, l, in_tile, k, tile);
  }
}

}  // namespace shoal::cuda
