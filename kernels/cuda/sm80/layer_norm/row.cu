// Tested by: tests/kernels/cuda/layer_norm_test.cc
// One block for each row. Moves 4 bytes per element (6 more with a join); the row is read twice more from the cache:
// the variance is that of differences from the mean, since a difference of sums would lose it where the mean is large.
#include "kernels/cuda/layer_norm.h"
#include "kernels/cuda/vec8.h"

namespace shoal::cuda {
namespace {

constexpr int kMaxWarps = 16;

struct RowShared {
  float sums[2][kMaxWarps];  // of x, of the squared differences
};

// Half the threads that would take the row in one go each: each has work for some loads in flight.
inline int ThreadsFor(int dim) { return min(max(dim / 16 / 32, 1), kMaxWarps) * 32; }

// The sum over the block, the same bits in every thread. `sums` is not used again.
__device__ float BlockSum(float x, float (&sums)[kMaxWarps]) {
  x = WarpSum(x);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < static_cast<int>(blockDim.x) / 32; ++i) sum += sums[i];
  return sum;
}

__global__ void __launch_bounds__(kMaxWarps * 32) LayerNormRow(const LayerNorm op) {
  RowShared& shared = Shared<RowShared>();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * op.dim;
  const int begin = 8 * static_cast<int>(threadIdx.x), step = 8 * static_cast<int>(blockDim.x);
  float sum = 0;
  for (int i = begin; i < op.dim; i += step) {
    Vec8 v = Load8(op.x + row + i);
    if (op.add != nullptr) {
      const Vec8 a = Load8(op.add + row + i);
      SHOAL_UNROLL for (int j = 0; j < 8; ++j) v.of[j] = ToFloat(FromFloat<bf16>(v.of[j] + a.of[j]));
      Store8(op.x + row + i, v);
    }
    SHOAL_UNROLL for (int j = 0; j < 8; ++j) sum += v.of[j];
  }
  if (op.w == nullptr) return;
  const float count = static_cast<float>(op.dim), mean = BlockSum(sum, shared.sums[0]) / count;
  float squares = 0;
  for (int i = begin; i < op.dim; i += step) {
    const Vec8 v = Load8(op.x + row + i);
    SHOAL_UNROLL for (int j = 0; j < 8; ++j) squares = __fmaf_rn(v.of[j] - mean, v.of[j] - mean, squares);
  }
  const float inverse = 1.0f / sqrtf(BlockSum(squares, shared.sums[1]) / count + op.eps);
  for (int i = begin; i < op.dim; i += step) {
    Vec8 v = Load8(op.x + row + i);
    SHOAL_UNROLL for (int j = 0; j < 8; ++j) {
      const float scaled = (v.of[j] - mean) * inverse * op.w[i + j];
      v.of[j] = op.bias == nullptr ? scaled : scaled + op.bias[i + j];
    }
    Store8(op.y + row + i, v);
  }
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const LayerNorm& op) {
  if (op.tokens == 0) return absl::OkStatus();
  if (op.dim % 8 != 0) return absl::InvalidArgumentError("layer_norm: the width is no multiple of 8");
  const LaunchShape shape = {dim3{static_cast<unsigned>(op.tokens)}, dim3{static_cast<unsigned>(ThreadsFor(op.dim))},
                             sizeof(RowShared)};
  return Launch(stream, "layer_norm", shape, LayerNormRow, op);
}

}  // namespace shoal::cuda
