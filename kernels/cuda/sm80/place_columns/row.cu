// Tested by: tests/kernels/cuda/sum_ranks_test.cc
// Moves 8 bytes per element. Shards begin on 32-element borders, but where a row begins is the caller's affair: each
// thread has one element, and a warp 128 consecutive bytes.
#include "kernels/cuda/place_columns.h"
#include "kernels/cuda/row_grid.h"

namespace shoal::cuda {
namespace {

__global__ void __launch_bounds__(kRowThreads) PlaceRow(const ops::PlaceColumnsArgs op) {
  const int at = RowVector();
  if (at >= op.width) return;
  const int64_t row = blockIdx.x;
  op.y[row * op.stride + at] = op.x[row * op.width + at];
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const ops::PlaceColumnsArgs& op) {
  if (op.rows == 0 || op.width == 0) return absl::OkStatus();
  if (op.rows < 0 || op.width < 0 || op.width > 65535 * kRowThreads) {
    return absl::InvalidArgumentError("place_columns: more columns than a grid has");
  }
  return Launch(stream, "place_columns", RowGrid(op.rows, op.width), PlaceRow, op);
}

}  // namespace shoal::cuda
