// Tested by: tests/kernels/cuda/cublaslt_test.cc
// Writes 2 bytes per element, or 4; a warp's are consecutive.
#include "kernels/cuda/place_bias.h"
#include "kernels/cuda/row_grid.h"

namespace shoal::cuda {
namespace {

template <typename T>
__global__ void __launch_bounds__(kRowThreads) BiasRow(const PlaceBias op) {
  const int at = RowVector();
  if (at >= op.n) return;
  static_cast<T*>(op.y)[blockIdx.x * op.y_stride + at] = FromFloat<T>(op.bias[at]);
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const PlaceBias& op) {
  if (op.tokens == 0 || op.n == 0) return absl::OkStatus();
  if (op.n < 0 || op.n > 65535 * kRowThreads || op.y_stride < op.n) {
    return absl::InvalidArgumentError("place_bias: more columns than a grid has, or rows that overlap");
  }
  return Launch(stream, "place_bias", RowGrid(op.tokens, op.n), op.f32_out ? BiasRow<float> : BiasRow<bf16>, op);
}

}  // namespace shoal::cuda
