// Makes a packed weight of dummy values (common/base/dummy_values.h):
//   W[r, c] = element (row_begin + r) * columns + column_begin + c of the tensor
// Defined to the bit: the bytes that OpTable::pack_rows makes of the same rows.
#pragma once

#include "absl/status/status.h"
#include "common/base/dummy_values.h"
#include "kernels/ops/stream.h"

namespace shoal::ops {

struct OpTable;

// [row_begin, row_begin + n) x [column_begin, column_begin + k) of a tensor [any, columns]; columns, column_begin and k
// in whole blocks of its type (on a device in whole 32s of types of one byte, too).
struct DummyMatrixArgs {
  DummyTensor tensor;
  int64_t columns;
  int64_t row_begin, column_begin;
  int64_t n, k;
  void* data;  // OpTable::packed_bytes(tensor.type, n, k); aligned as Weight::data is
};
using DummyMatrixFn = absl::Status (*)(Stream&, const DummyMatrixArgs&);

// InvalidArgument: not in whole blocks, or not within the columns.
inline absl::Status CheckDummyMatrix(const DummyMatrixArgs& a) {
  const int64_t block = Info(a.tensor.type).block;
  const bool within =
      a.n >= 0 && a.k >= 0 && a.row_begin >= 0 && a.column_begin >= 0 && a.column_begin + a.k <= a.columns;
  if (within && a.columns % block == 0 && a.column_begin % block == 0 && a.k % block == 0) return absl::OkStatus();
  return absl::InvalidArgumentError("dummy_matrix: a piece that is not inside, or not in whole blocks");
}

// Into host memory, by way of the table's packing.
absl::Status DummyMatrixOnHost(Stream& stream, const DummyMatrixArgs& args, const OpTable& table);
template <const OpTable& (*kTable)()>
absl::Status DummyMatrixOnHost(Stream& stream, const DummyMatrixArgs& args) {
  return DummyMatrixOnHost(stream, args, kTable());
}

}  // namespace shoal::ops
