// Tested by: tests/kernels/cuda/soft_cap_test.cc
// Moves 8 bytes per element; a thread has one, and a warp 128 consecutive bytes.
#include "kernels/cuda/soft_cap.h"

namespace shoal::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) SoftCapElement(const ops::SoftCapArgs op) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= op.count) return;
  const float x = op.scale * op.y[i];
  op.y[i] = op.cap > 0 ? op.cap * tanhf(x / op.cap) : x;
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const ops::SoftCapArgs& op) {
  if (op.count == 0) return absl::OkStatus();
  const int64_t blocks = (op.count + kThreads - 1) / kThreads;
  if (op.count < 0 || blocks > INT32_MAX) {
    return absl::InvalidArgumentError("soft_cap: more elements than a grid has");
  }
  return Launch(stream, "soft_cap", {dim3{static_cast<unsigned>(blocks)}, dim3{kThreads}, 0}, SoftCapElement, op);
}

}  // namespace shoal::cuda
