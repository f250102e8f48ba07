// Tested by tests/kernels/row_ops_test.cc
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cpu/cpu.h"

namespace shoal::ops::cpu {
namespace {

constexpr int64_t kAlign = 64;
constexpr int kColumns = 4;  // consecutive columns of a row that lie together: what one int8 dot instruction sums

int64_t RoundUp(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

struct Group {
  uint8_t* base;
  int lanes, lane;
  PackedLayout layout;

  // Byte of column c of block b (Q8_0), or of the nibble pair of columns c and c + 16 (Q4).
  uint8_t* Byte(int64_t b, int c, int block_bytes) const {
    return base + b * block_bytes + c / kColumns * lanes * kColumns + lane * kColumns + c % kColumns;
  }
  uint8_t* Scale(int64_t b) const { return base + layout.scales_at + (b * lanes + lane) * 2; }
  uint8_t* Minimum(int64_t b) const { return base + layout.minima_at + (b * lanes + lane) * 2; }
};

void PackRow(DType t, const void* row, int64_t k, const Group& g) {
  const int64_t blocks = k / kQuantBlock;
  const int full = kQuantBlock * g.lanes, half = full / 2;
  const auto* plain = static_cast<const uint8_t*>(row);
  const auto size = static_cast<int64_t>(Info(t).block_bytes);
  switch (t) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      for (int64_t i = 0; i < k; ++i) {
        std::memcpy(g.base + (i * g.lanes + g.lane) * size, plain + i * size, static_cast<size_t>(size));
      }
      return;
    case DType::kQ8_0:
      for (int64_t b = 0; b < blocks; ++b) {
        const auto& w = static_cast<const BlockQ8_0*>(row)[b];
        std::memcpy(g.Scale(b), &w.d, 2);
        for (int c = 0; c < kQuantBlock; c += kColumns) std::memcpy(g.Byte(b, c, full), w.q + c, kColumns);
      }
      return;
    case DType::kQ4_0:
      for (int64_t b = 0; b < blocks; ++b) {
        const auto& w = static_cast<const BlockQ4_0*>(row)[b];
        std::memcpy(g.Scale(b), &w.d, 2);
        for (int c = 0; c < kQuantBlock / 2; c += kColumns) std::memcpy(g.Byte(b, c, half), w.q + c, kColumns);
      }
      return;
    case DType::kQ4_1:
      for (int64_t b = 0; b < blocks; ++b) {
        const auto& w = static_cast<const BlockQ4_1*>(row)[b];
        std::memcpy(g.Scale(b), &w.d, 2);
        std::memcpy(g.Minimum(b), &w.m, 2);
        for (int c = 0; c < kQuantBlock / 2; c += kColumns) std::memcpy(g.Byte(b, c, half), w.q + c, kColumns);
      }
      return;
  }
}

// Back to the canonical block, so that one definition gives the values.
template <typename Block>
void UnpackBlock(DType t, const Group& g, int64_t b, float* dst) {
  Block w;
  std::memcpy(&w.d, g.Scale(b), 2);
  if constexpr (requires { w.m; }) std::memcpy(&w.m, g.Minimum(b), 2);
  const int columns = static_cast<int>(sizeof w.q);
  for (int c = 0; c < columns; c += kColumns) std::memcpy(w.q + c, g.Byte(b, c, columns * g.lanes), kColumns);
  DequantiseRow(t, &w, kQuantBlock, dst);
}

}  // namespace

PackedLayout LayoutOf(int lanes, DType t, int64_t k) {
  if (!IsQuantised(t)) return {RoundUp(static_cast<int64_t>(Info(t).block_bytes) * k * lanes, kAlign), 0, 0};
  const int64_t blocks = k / kQuantBlock, halves = blocks * lanes * 2;
  const int64_t scales_at = blocks * lanes * (t == DType::kQ8_0 ? kQuantBlock : kQuantBlock / 2);
  const int64_t minima_at = scales_at + halves;
  return {RoundUp(minima_at + (t == DType::kQ4_1 ? halves : 0), kAlign), scales_at, minima_at};
}

size_t PackedBytes(int lanes, DType t, int64_t n, int64_t k) {
  return static_cast<size_t>((n + lanes - 1) / lanes * LayoutOf(lanes, t, k).group_bytes);
}

void PackRows(int lanes, DType t, const void* src, int64_t row_begin, int64_t rows, int64_t k, void* dst) {
  const PackedLayout layout = LayoutOf(lanes, t, k);
  const size_t row_bytes = RowBytes(t, k);
  const std::vector<uint8_t> zeros(rows % lanes == 0 ? 0 : row_bytes);
  for (int64_t r = 0; r < RoundUp(rows, lanes); ++r) {
    auto* base = static_cast<uint8_t*>(dst) + (row_begin + r) / lanes * layout.group_bytes;
    const auto* row = static_cast<const uint8_t*>(src) + row_bytes * static_cast<size_t>(r);
    PackRow(t, r < rows ? row : zeros.data(), k, {base, lanes, static_cast<int>((row_begin + r) % lanes), layout});
  }
}

void UnpackRow(int lanes, DType t, const void* packed, int64_t row, int64_t k, float* dst) {
  const PackedLayout layout = LayoutOf(lanes, t, k);
  auto* base = const_cast<uint8_t*>(static_cast<const uint8_t*>(packed)) + row / lanes * layout.group_bytes;
  const Group g{base, lanes, static_cast<int>(row % lanes), layout};
  if (!IsQuantised(t)) {
    const auto size = static_cast<int64_t>(Info(t).block_bytes);
    for (int64_t i = 0; i < k; ++i) DequantiseRow(t, g.base + (i * lanes + g.lane) * size, 1, dst + i);
    return;
  }
  for (int64_t b = 0; b < k / kQuantBlock; ++b) {
    if (t == DType::kQ8_0) UnpackBlock<BlockQ8_0>(t, g, b, dst + b * kQuantBlock);
    if (t == DType::kQ4_0) UnpackBlock<BlockQ4_0>(t, g, b, dst + b * kQuantBlock);
    if (t == DType::kQ4_1) UnpackBlock<BlockQ4_1>(t, g, b, dst + b * kQuantBlock);
  }
}

}  // namespace shoal::ops::cpu
