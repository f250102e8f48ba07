// Pieces of tensors for tests of dummy_matrix: every type and kind, sizes that fill neither groups nor vectors, ranges
// of rows and columns as 1, 2 and 3 ranks have them.
#pragma once

#include <ostream>
#include <span>
#include <vector>

#include "kernels/ops/op_table.h"
#include "tests/kernels/kernel_test_util.h"

namespace shoal::ops {

inline std::ostream& operator<<(std::ostream& out, const DummyMatrixArgs& a) {
  return out << Info(a.tensor.type).name << " kind " << static_cast<int>(a.tensor.kind) << " rows " << a.row_begin
             << " + " << a.n << ", columns " << a.column_begin << " + " << a.k << " of " << a.columns;
}

struct DummyPiece {
  DummyMatrixArgs args;

  // By the definition: the rows of the tensor, cut, and packed by `table`.
  std::vector<uint8_t> Packed(const OpTable& table) const {
    const DType type = args.tensor.type;
    const size_t stored_row = RowBytes(type, args.columns), row = RowBytes(type, args.k);
    std::vector<uint8_t> cut(row * static_cast<size_t>(args.n));
    for (int64_t r = 0; r < args.n; ++r) {
      std::vector<std::byte> whole(stored_row);
      DummyBytes(args.tensor, (args.row_begin + r) * static_cast<int64_t>(stored_row), whole);
      std::memcpy(cut.data() + row * static_cast<size_t>(r), whole.data() + RowBytes(type, args.column_begin), row);
    }
    const AlignedBytes packed = AllocateAligned(table.packed_bytes(type, args.n, args.k));
    table.pack_rows(type, cut.data(), 0, args.n, args.n, args.k, packed.get());
    return {packed.get(), packed.get() + table.packed_bytes(type, args.n, args.k)};
  }
};

inline std::vector<DummyPiece> DummyPieces() {
  std::vector<DummyPiece> pieces;
  for (const DType type : AllDTypes()) {
    std::vector<DummyKind> kinds = {DummyKind::kWeight};
    if (IsByte(type)) kinds.push_back(DummyKind::kScaledWeight);
    if (type == DType::kF32) kinds = {DummyKind::kNorm, DummyKind::kFp8Scale, DummyKind::kInt8Scale};
    for (const DummyKind kind : kinds) {
      const auto add = [&](int64_t columns, int64_t row, int64_t column, int64_t n, int64_t k) {
        const DummyTensor tensor = {.seed = 77, .stream = 5 + pieces.size(), .type = type, .kind = kind};
        pieces.push_back({{tensor, columns, row, column, n, k, nullptr}});
      };
      for (const int64_t ranks : {1, 2, 3}) {
        for (int64_t rank = 0; rank < ranks; ++rank) {
          const int64_t n = 43 / ranks, k = 288 / ranks / 32 * 32;
          add(288, rank * n, 0, n, 288);
          add(288, 0, rank * k, 37, k);
        }
      }
      add(32, 0, 0, 1, 32);
      add(160, (int64_t{1} << 35) + 1, 96, 2, 64);  // beyond 32 bits
      if (IsQuantised(type) || IsByte(type)) continue;
      add(1, 5, 0, 19, 1);
      add(7, 1, 3, 11, 4);
      add(291, 4, 97, 5, 97);
    }
  }
  return pieces;
}

}  // namespace shoal::ops
