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

// int4 lies as Q8_0, without its zero points: one product serves both, exactly.
DType LiesAs(DType t) { return t == DType::kI4 ? DType::kQ8_0 : t; }

// Bytes of one block of a whole group: the codes, the scales, the minima.
int64_t BlockBytes(int lanes, DType t) { return static_cast<int64_t>(Info(LiesAs(t)).block_bytes) * lanes; }

struct Group {
  uint8_t* base;
  int lanes, lane;
  int64_t block_bytes;
  int code_bytes;  // of a block of one row: 32, or 16 nibble pairs

  // Byte of column c of block b (Q8_0), or of the nibble pair of columns c and c + 16 (Q4).
  uint8_t* Byte(int64_t b, int c) const {
    return base + b * block_bytes + c / kColumns * lanes * kColumns + lane * kColumns + c % kColumns;
  }
  uint8_t* Scale(int64_t b) const { return base + b * block_bytes + (code_bytes * lanes + lane * 2); }
  uint8_t* Minimum(int64_t b) const { return Scale(b) + lanes * 2; }
};

Group GroupOf(int lanes, DType t, const void* packed, int64_t row, int64_t k) {
  auto* base = const_cast<uint8_t*>(static_cast<const uint8_t*>(packed)) + row / lanes * GroupBytes(lanes, t, k);
  return {base, lanes, static_cast<int>(row % lanes), BlockBytes(lanes, t), LiesAs(t) == DType::kQ8_0 ? 32 : 16};
}

// `Block` of the canonical row into the group, and back.
template <typename Block>
void PackBlock(const Block& w, int64_t b, const Group& g) {
  std::memcpy(g.Scale(b), &w.d, 2);
  if constexpr (requires { w.m; }) std::memcpy(g.Minimum(b), &w.m, 2);
  for (int c = 0; c < static_cast<int>(sizeof w.q); c += kColumns) std::memcpy(g.Byte(b, c), w.q + c, kColumns);
}
template <typename Block>
void UnpackBlock(DType t, const Group& g, int64_t b, float* dst) {
  Block w;
  std::memcpy(&w.d, g.Scale(b), 2);
  if constexpr (requires { w.m; }) std::memcpy(&w.m, g.Minimum(b), 2);
  for (int c = 0; c < static_cast<int>(sizeof w.q); c += kColumns) std::memcpy(w.q + c, g.Byte(b, c), kColumns);
  DequantiseRow(t, &w, kQuantBlock, dst);
}

void PackRow(DType t, const void* row, int64_t k, const Group& g) {
  if (!IsQuantised(t)) {
    const size_t size = Info(t).block_bytes;
    for (int64_t i = 0; i < k; ++i) {
      const size_t at = static_cast<size_t>(i) * size, lanes = static_cast<size_t>(g.lanes);
      std::memcpy(g.base + at * lanes + static_cast<size_t>(g.lane) * size, static_cast<const uint8_t*>(row) + at,
                  size);
    }
    return;
  }
  for (int64_t b = 0; b < k / kQuantBlock; ++b) {
    if (t == DType::kQ8_0) PackBlock(static_cast<const BlockQ8_0*>(row)[b], b, g);
    if (t == DType::kI4) PackBlock(WithoutZeroPoint(static_cast<const BlockI4*>(row)[b]), b, g);
    if (t == DType::kQ4_0) PackBlock(static_cast<const BlockQ4_0*>(row)[b], b, g);
    if (t == DType::kQ4_1) PackBlock(static_cast<const BlockQ4_1*>(row)[b], b, g);
  }
}

}  // namespace

int64_t GroupBytes(int lanes, DType t, int64_t k) {
  return RoundUp(static_cast<int64_t>(RowBytes(LiesAs(t), k)) * lanes, kAlign);
}

size_t PackedBytes(int lanes, DType t, int64_t n, int64_t k) {
  return static_cast<size_t>((n + lanes - 1) / lanes * GroupBytes(lanes, t, k));
}

void PackRows(int lanes, DType t, const void* src, int64_t row_begin, int64_t rows, int64_t k, void* dst) {
  const size_t row_bytes = RowBytes(t, k);
  const std::vector<uint8_t> zeros(rows % lanes == 0 ? 0 : row_bytes);
  for (int64_t r = 0; r < RoundUp(rows, lanes); ++r) {
    const auto* row = static_cast<const uint8_t*>(src) + row_bytes * static_cast<size_t>(r);
    PackRow(t, r < rows ? row : zeros.data(), k, GroupOf(lanes, t, dst, row_begin + r, k));
  }
}

void UnpackRow(int lanes, DType t, const void* packed, int64_t row, int64_t k, float* dst) {
  const Group g = GroupOf(lanes, t, packed, row, k);
  if (!IsQuantised(t)) {
    const auto size = static_cast<int64_t>(Info(t).block_bytes);
    for (int64_t i = 0; i < k; ++i) DequantiseRow(t, g.base + (i * g.lanes + g.lane) * size, 1, dst + i);
    return;
  }
  for (int64_t b = 0; b < k / kQuantBlock; ++b) {
    if (LiesAs(t) == DType::kQ8_0) UnpackBlock<BlockQ8_0>(DType::kQ8_0, g, b, dst + b * kQuantBlock);
    if (t == DType::kQ4_0) UnpackBlock<BlockQ4_0>(t, g, b, dst + b * kQuantBlock);
    if (t == DType::kQ4_1) UnpackBlock<BlockQ4_1>(t, g, b, dst + b * kQuantBlock);
  }
}

}  // namespace shoal::ops::cpu
