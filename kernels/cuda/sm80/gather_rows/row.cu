// Tested by: tests/kernels/cuda/gather_test.cc
// Moves 4 bytes per element.
#include "kernels/cuda/gather_rows.h"
#include "kernels/cuda/row_grid.h"

namespace shoal::cuda {
namespace {

__global__ void __launch_bounds__(kRowThreads) GatherRow(const GatherRows op) {
  const int vector = RowVector(), vectors = op.dim / 8;
  if (vector >= vectors) return;
  const int64_t from = op.rows[blockIdx.x], to = blockIdx.x;
  uint4 v = {0, 0, 0, 0};
  if (from >= 0) v = reinterpret_cast<const uint4*>(op.x)[from * vectors + vector];
  reinterpret_cast<uint4*>(op.y)[to * vectors + vector] = v;
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const GatherRows& op) {
  if (op.count == 0) return absl::OkStatus();
  if (op.dim <= 0 || op.dim % 8 != 0) return absl::InvalidArgumentError("gather_rows: the width is no multiple of 8");
  return Launch(stream, "gather_rows", RowGrid(op.count, op.dim / 8), GatherRow, op);
}

}  // namespace shoal::cuda
