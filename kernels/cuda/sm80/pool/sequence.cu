// Tested by: tests/kernels/cuda/pool_test.cc
// One block for each sequence, a thread 8 columns of it. Moves 2 bytes per element of the rows that are read; of a mean
// kAtOnce rows are on their way to each thread at a time, added in their order.
#include "kernels/cuda/pool.h"
#include "kernels/cuda/vec8.h"

namespace shoal::cuda {
namespace {

constexpr int kMaxWarps = 8;
constexpr int kAtOnce = 8;

struct PoolShared {
  float sums[kMaxWarps];
};

// The rows' mean, of 8 columns.
__device__ Vec8 Mean(const bf16* x, int rows, int dim) {
  Vec8 sum = Load8(x);
  int row = 1;
  for (; row + kAtOnce <= rows; row += kAtOnce) {
    Vec8 v[kAtOnce];
    SHOAL_UNROLL for (int r = 0; r < kAtOnce; ++r) v[r] = Load8(x + static_cast<int64_t>(row + r) * dim);
    SHOAL_UNROLL for (int r = 0; r < kAtOnce; ++r) { SHOAL_UNROLL for (int i = 0; i < 8; ++i) sum.of[i] += v[r].of[i]; }
  }
  for (; row < rows; ++row) {
    const Vec8 v = Load8(x + static_cast<int64_t>(row) * dim);
    SHOAL_UNROLL for (int i = 0; i < 8; ++i) sum.of[i] += v.of[i];
  }
  SHOAL_UNROLL for (int i = 0; i < 8; ++i) sum.of[i] /= static_cast<float>(rows);
  return sum;
}

__global__ void __launch_bounds__(kMaxWarps * 32) PoolSequence(const Pool op) {
  PoolShared& shared = Shared<PoolShared>();
  const int64_t s = blockIdx.x;
  const int rows = op.rows[s], step = 8 * static_cast<int>(blockDim.x);
  const int64_t row = op.first[s] + (op.pooling == ops::Pooling::kLast ? rows - 1 : 0);
  float* const y = op.y + s * op.dim;
  float squares = 0;
  for (int i = 8 * static_cast<int>(threadIdx.x); i < op.dim; i += step) {
    const bf16* const x = op.x + row * op.dim + i;
    const Vec8 v = op.pooling == ops::Pooling::kMean ? Mean(x, rows, op.dim) : Load8(x);
    SHOAL_UNROLL for (int j = 0; j < 8; ++j) squares = __fmaf_rn(v.of[j], v.of[j], squares);
    Store8(y + i, v);
  }
  if (!op.normalise) return;
  squares = WarpSum(squares);
  if (threadIdx.x % 32 == 0) shared.sums[threadIdx.x / 32] = squares;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < static_cast<int>(blockDim.x) / 32; ++i) sum += shared.sums[i];
  if (sum == 0) return;
  const float length = sqrtf(sum);
  for (int i = 8 * static_cast<int>(threadIdx.x); i < op.dim; i += step) {
    Vec8 v = Load8(y + i);
    SHOAL_UNROLL for (int j = 0; j < 8; ++j) v.of[j] /= length;
    Store8(y + i, v);
  }
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const Pool& op) {
  if (op.count == 0) return absl::OkStatus();
  if (op.dim <= 0 || op.dim % 8 != 0) return absl::InvalidArgumentError("pool: the width is no multiple of 8");
  const int warps = min((op.dim / 8 + 31) / 32, kMaxWarps);
  const LaunchShape shape = {dim3{static_cast<unsigned>(op.count)}, dim3{static_cast<unsigned>(warps * 32)},
                             sizeof(PoolShared)};
  return Launch(stream, "pool", shape, PoolSequence, op);
}

}  // namespace shoal::cuda
