// Tested by: tests/kernels/cuda/quantise_rows_test.cc
// One block for each row. Moves 3 bytes per element; the row is read a second time from the cache.
#include "kernels/cuda/quantise_rows.h"
#include "kernels/cuda/row_block.h"

namespace shoal::cuda {
namespace {

constexpr float kLargest = 448;  // of e4m3

struct RowShared {
  float largest[kRowBlockWarps];
};

__global__ void __launch_bounds__(kRowBlockThreads) QuantiseRow(const QuantiseRows op) {
  RowShared& shared = Shared<RowShared>();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * op.dim;
  const int begin = RowBegin(), step = RowStep();
  float largest = 0;  // fmaxf leaves out what is not a number; its code shows it
  for (int i = begin; i < op.dim; i += step) {
    const Vec8 v = Load8(op.x + row + i);
    SHOAL_UNROLL for (int j = 0; j < 8; ++j) largest = fmaxf(largest, fabsf(v.of[j]));
  }
  const float wanted = RowMax(largest, shared.largest) / kLargest;
  const float scale = wanted >= 0x1p-126f ? wanted : 1.0f, inverse = 1.0f / scale;
  if (threadIdx.x == 0) op.scale[blockIdx.x] = scale;
  for (int i = begin; i < op.dim; i += step) {
    const Vec8 v = Load8(op.x + row + i);
    uint32_t pairs[4];
    SHOAL_UNROLL for (int j = 0; j < 4; ++j) pairs[j] = PackE4M3(v.of[2 * j] * inverse, v.of[2 * j + 1] * inverse);
    *reinterpret_cast<uint2*>(op.codes + row + i) = {pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16};
  }
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const QuantiseRows& op) {
  if (op.tokens == 0) return absl::OkStatus();
  if (op.dim % 8 != 0) return absl::InvalidArgumentError("quantise_rows: the width is no multiple of 8");
  return Launch(stream, "quantise_rows", RowBlock(op.tokens, op.dim, sizeof(RowShared)), QuantiseRow, op);
}

}  // namespace shoal::cuda
