// Tested by: tests/kernels/cuda/quantise_rows_test.cc
// One block for each row. Moves 3 bytes per element; the row is read a second time from the cache.
#include "kernels/cuda/quantise_rows.h"
#include "kernels/cuda/vec8.h"

namespace shoal::cuda {
namespace {

constexpr int kMaxWarps = 16;
constexpr float kLargest = 448;  // of e4m3

struct RowShared {
  float largest[kMaxWarps];
};

// Half the threads that would take the row in one go each: each has work for some loads in flight.
inline int ThreadsFor(int dim) { return min(max(dim / 16 / 32, 1), kMaxWarps) * 32; }

__global__ void __launch_bounds__(kMaxWarps * 32) QuantiseRow(const QuantiseRows op) {
  RowShared& shared = Shared<RowShared>();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * op.dim;
  const int begin = 8 * static_cast<int>(threadIdx.x), step = 8 * static_cast<int>(blockDim.x);
  float largest = 0;  // fmaxf leaves out what is not a number; its code shows it
  for (int i = begin; i < op.dim; i += step) {
    const Vec8 v = Load8(op.x + row + i);
    SHOAL_UNROLL for (int j = 0; j < 8; ++j) largest = fmaxf(largest, fabsf(v.of[j]));
  }
  largest = WarpMax(largest);
  const int warp = static_cast<int>(threadIdx.x) / 32, warps = static_cast<int>(blockDim.x) / 32;
  if (threadIdx.x % 32 == 0) shared.largest[warp] = largest;
  __syncthreads();
  for (int i = 0; i < warps; ++i) largest = fmaxf(largest, shared.largest[i]);
  const float wanted = largest / kLargest;
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
  const LaunchShape shape = {dim3{static_cast<unsigned>(op.tokens)}, dim3{static_cast<unsigned>(ThreadsFor(op.dim))},
                             sizeof(RowShared)};
  return Launch(stream, "quantise_rows", shape, QuantiseRow, op);
}

}  // namespace shoal::cuda
