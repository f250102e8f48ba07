// Tested by: tests/kernels/dummy_matrix_test.cc
#include "kernels/ops/dummy_matrix.h"

#include <algorithm>
#include <vector>

#include "kernels/ops/op_table.h"

namespace shoal::ops {

absl::Status DummyMatrixOnHost(Stream& stream, const DummyMatrixArgs& a, const OpTable& table) {
  const absl::Status checked = CheckDummyMatrix(a);
  if (!checked.ok()) return checked;
  if (table.packed_bytes(a.tensor.type, a.n, a.k) == 0) return absl::OkStatus();
  const int64_t group = table.row_group;
  const size_t row_bytes = RowBytes(a.tensor.type, a.k);
  // A task makes about 1 MiB of canonical rows.
  const int64_t groups_each = std::max<int64_t>(1, (1 << 20) / (static_cast<int64_t>(row_bytes) * group));
  const int64_t rows_each = groups_each * group;
  ParallelFor(stream, static_cast<int>((a.n + rows_each - 1) / rows_each), [&](int task) {
    const int64_t begin = task * rows_each, rows = std::min(rows_each, a.n - begin);
    std::vector<std::byte> canonical(row_bytes * static_cast<size_t>(rows));
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t first = (a.row_begin + begin + r) * a.columns + a.column_begin;
      const auto row = std::span(canonical).subspan(row_bytes * static_cast<size_t>(r), row_bytes);
      DummyBytes(a.tensor, static_cast<int64_t>(RowBytes(a.tensor.type, first)), row);
    }
    table.pack_rows(a.tensor.type, canonical.data(), begin, rows, a.n, a.k, a.data);
  });
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops
