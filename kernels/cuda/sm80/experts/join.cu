// Tested by: tests/kernels/cuda/experts_test.cc
// Moves 2 (used + 1) bytes per element of the result.
#include "kernels/cuda/experts.h"
#include "kernels/cuda/row_grid.h"
#include "kernels/cuda/vec8.h"

namespace shoal::cuda {
namespace {

__global__ void __launch_bounds__(kRowThreads) JoinRow(const JoinExperts op) {
  const int at = 8 * RowVector();
  if (at >= op.dim) return;
  const int64_t t = blockIdx.x, places = t * op.used;
  Vec8 sum = {};
  for (int j = 0; j < op.used; ++j) {
    const float weight = op.weights[places + j];
    const Vec8 y = Load8(op.y + static_cast<int64_t>(op.sorted[places + j]) * op.dim + at);
    SHOAL_UNROLL for (int i = 0; i < 8; ++i) sum.of[i] = __fadd_rn(sum.of[i], __fmul_rn(weight, y.of[i]));
  }
  Store8(op.out + t * op.dim + at, sum);
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const JoinExperts& op) {
  if (op.tokens == 0) return absl::OkStatus();
  if (op.dim <= 0 || op.dim % 8 != 0) return absl::InvalidArgumentError("join_experts: the width is no multiple of 8");
  return Launch(stream, "join_experts", RowGrid(op.tokens, op.dim / 8), JoinRow, op);
}

}  // namespace shoal::cuda
