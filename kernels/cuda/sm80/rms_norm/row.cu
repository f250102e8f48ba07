// Tested by: tests/kernels/cuda/rms_norm_test.cc
// One block for each row. Moves 4 bytes per element (6 more with a join); the row is read a second time from the cache.
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/vec8.h"

namespace shoal::cuda {
namespace {

constexpr int kMaxWarps = 16;

struct RowShared {
  float sums[kMaxWarps];
};

// Half the threads that would take the row in one go each: each has work for some loads in flight.
inline int ThreadsFor(int dim) { return min(max(dim / 16 / 32, 1), kMaxWarps) * 32; }

__global__ void __launch_bounds__(kMaxWarps * 32) RmsNormRow(const RmsNorm op) {
  RowShared& shared = Shared<RowShared>();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * op.dim;
  const int begin = 8 * static_cast<int>(threadIdx.x), step = 8 * static_cast<int>(blockDim.x);
  float squares = 0;
  for (int i = begin; i < op.dim; i += step) {
    Vec8 v = Load8(op.x + row + i);
    if (op.add != nullptr) {
      const Vec8 a = Load8(op.add + row + i);
      SHOAL_UNROLL for (int j = 0; j < 8; ++j) v.of[j] = ToFloat(FromFloat<bf16>(v.of[j] + a.of[j]));
      Store8(op.x + row + i, v);
    }
    SHOAL_UNROLL for (int j = 0; j < 8; ++j) squares = __fmaf_rn(v.of[j], v.of[j], squares);
  }
  if (op.w == nullptr) return;
  squares = WarpSum(squares);
  const int warp = static_cast<int>(threadIdx.x) / 32, warps = static_cast<int>(blockDim.x) / 32;
  if (threadIdx.x % 32 == 0) shared.sums[warp] = squares;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < warps; ++i) sum += shared.sums[i];
  const float inverse = 1.0f / sqrtf(sum / static_cast<float>(op.dim) + op.eps);
  for (int i = begin; i < op.dim; i += step) {
    Vec8 v = Load8(op.x + row + i);
    SHOAL_UNROLL for (int j = 0; j < 8; ++j) v.of[j] = v.of[j] * inverse * (op.w[i + j] + op.weight_bias);
    Store8(op.y + row + i, v);
  }
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const RmsNorm& op) {
  if (op.tokens == 0) return absl::OkStatus();
  if (op.dim % 8 != 0) return absl::InvalidArgumentError("rms_norm: the width is no multiple of 8");
  const LaunchShape shape = {dim3{static_cast<unsigned>(op.tokens)}, dim3{static_cast<unsigned>(ThreadsFor(op.dim))},
                             sizeof(RowShared)};
  return Launch(stream, "rms_norm", shape, RmsNormRow, op);
}

}  // namespace shoal::cuda
