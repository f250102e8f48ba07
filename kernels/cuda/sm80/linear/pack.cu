// Tested by: tests/kernels/cuda/linear_test.cc
#include <cstring>
#include <vector>

#include "kernels/cuda/linear.h"
#include "kernels/cuda/linear_pack.h"

namespace shoal::cuda {
namespace {

using linear::BlockLayout;

template <typename Block>
void PackRow(const void* src, BlockLayout l, int row, int64_t k, uint8_t* tile) {
  const int64_t blocks = k / kQuantBlock;
  for (int64_t i = 0; i < blocks; ++i) linear::PutBlock(static_cast<const Block*>(src)[i], l, row, i, blocks, tile);
}

}  // namespace

size_t LinearBytes(DType type, int64_t n, int64_t k) {
  if (!IsQuantised(type)) return RowBytes(type, k) * static_cast<size_t>(n);
  return static_cast<size_t>(linear::TilesOf(n) * linear::TileBytes(linear::LayoutOf(type), k));
}

void PackLinear(DType type, const void* src, int64_t row_begin, int64_t rows, int64_t k, void* dst) {
  const size_t row_bytes = RowBytes(type, k);
  const auto* from = static_cast<const uint8_t*>(src);
  auto* to = static_cast<uint8_t*>(dst);
  if (!IsQuantised(type)) {
    std::memcpy(to + row_bytes * static_cast<size_t>(row_begin), from, row_bytes * static_cast<size_t>(rows));
    return;
  }
  const BlockLayout l = linear::LayoutOf(type);
  const std::vector<uint8_t> zeros(row_bytes);
  for (int64_t r = 0; r < linear::TilesOf(rows) * linear::kRowTile; ++r) {
    const uint8_t* row = r < rows ? from + row_bytes * static_cast<size_t>(r) : zeros.data();
    uint8_t* tile = to + (row_begin + r) / linear::kRowTile * linear::TileBytes(l, k);
    const int in_tile = static_cast<int>(r % linear::kRowTile);
    if (type == DType::kQ8_0) PackRow<BlockQ8_0>(row, l, in_tile, k, tile);
    if (type == DType::kQ4_0) PackRow<BlockQ4_0>(row, l, in_tile, k, tile);
    if (type == DType::kI4) PackRow<BlockI4>(row, l, in_tile, k, tile);
    if (type == DType::kQ4_1) PackRow<BlockQ4_1>(row, l, in_tile, k, tile);
  }
}

}  // namespace shoal::cuda
