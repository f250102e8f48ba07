// Tested by: tests/kernels/cuda/norm_test.cc
// One block for each row. Moves 4 bytes per element (6 more with a join); the row is read a second time from the cache.
// Short rows, such as heads, are packed: as many lanes as a row has vectors, rounded up to a power of two, so that with
// head_dim 64 a warp has four rows; each stays in registers.
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/row_block.h"

namespace shoal::cuda {
namespace {

constexpr int kShortThreads = 256, kShortDim = 256;

struct RowShared {
  float sums[kRowBlockWarps];
};

__global__ void __launch_bounds__(kRowBlockThreads) RmsNormRow(const RmsNorm op) {
  RowShared& shared = Shared<RowShared>();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * op.dim;
  const int begin = RowBegin(), step = RowStep();
  float squares = 0;
  for (int i = begin; i < op.dim; i += step) {
    const Vec8 v = Join8(op.x, op.add, row + i);
    SHOAL_UNROLL for (int j = 0; j < 8; ++j) squares = __fmaf_rn(v.of[j], v.of[j], squares);
  }
  if (op.w == nullptr) return;
  const float inverse = 1.0f / sqrtf(RowSum(squares, shared.sums) / static_cast<float>(op.dim) + op.eps);
  for (int i = begin; i < op.dim; i += step) {
    Vec8 v = Load8(op.x + row + i);
    SHOAL_UNROLL for (int j = 0; j < 8; ++j) v.of[j] = v.of[j] * inverse * (op.w[i + j] + op.weight_bias);
    Store8(op.y + row + i, v);
  }
}

// kLanes of a warp have a row of up to 8 kLanes elements. The same sums as by a whole warp, whose other lanes add 0.
template <int kLanes>
__global__ void __launch_bounds__(kShortThreads) RmsNormShort(const RmsNorm op) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kShortThreads / kLanes) + threadIdx.x / kLanes;
  const int column = 8 * (static_cast<int>(threadIdx.x) % kLanes);
  const int64_t at = row * op.dim + column;
  const bool there = row < op.tokens && column < op.dim;
  Vec8 v = {};
  if (there) v = Join8(op.x, op.add, at);
  if (op.w == nullptr) return;
  float squares = 0;
  SHOAL_UNROLL for (int j = 0; j < 8; ++j) squares = __fmaf_rn(v.of[j], v.of[j], squares);
  SHOAL_UNROLL for (int d = kLanes / 2; d > 0; d /= 2) squares += ShuffleXor(squares, d);
  if (!there) return;
  const float inverse = 1.0f / sqrtf(squares / static_cast<float>(op.dim) + op.eps);
  SHOAL_UNROLL for (int j = 0; j < 8; ++j) v.of[j] = v.of[j] * inverse * (op.w[column + j] + op.weight_bias);
  Store8(op.y + at, v);
}

template <int kLanes>
absl::Status LaunchShort(DeviceStream stream, const RmsNorm& op) {
  constexpr int kRows = kShortThreads / kLanes;
  const int blocks = op.tokens / kRows + (op.tokens % kRows != 0 ? 1 : 0);
  return Launch(stream, "rms_norm", {dim3{static_cast<unsigned>(blocks)}, dim3{kShortThreads}, 0}, RmsNormShort<kLanes>,
                op);
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const RmsNorm& op) {
  if (op.tokens == 0) return absl::OkStatus();
  if (op.dim % 8 != 0) return absl::InvalidArgumentError("rms_norm: the width is no multiple of 8");
  if (op.dim <= 64) return LaunchShort<8>(stream, op);
  if (op.dim <= 128) return LaunchShort<16>(stream, op);
  if (op.dim <= kShortDim) return LaunchShort<32>(stream, op);
  return Launch(stream, "rms_norm", RowBlock(op.tokens, op.dim, sizeof(RowShared)), RmsNormRow, op);
}

}  // namespace shoal::cuda
