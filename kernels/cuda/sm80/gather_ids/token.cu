// Tested by: tests/kernels/cuda/gather_test.cc
// A thread for each token: 8 to 12 bytes, so the launch is all the time it takes.
#include "kernels/cuda/gather_ids.h"

namespace shoal::cuda {
namespace {

constexpr int kThreads = 256;

LaunchShape ShapeOf(int count) {
  return {dim3{static_cast<unsigned>((count + kThreads - 1) / kThreads)}, dim3{kThreads}, 0};
}
__device__ int Index() { return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); }

__global__ void __launch_bounds__(kThreads) GatherId(const ops::GatherIdsArgs op) {
  const int t = Index();
  if (t >= op.tokens) return;
  const int32_t source = op.sources[t];
  op.ids[t] = source >= 0 ? source : op.last[~source];
}

__global__ void __launch_bounds__(kThreads) ScatterId(const ops::ScatterIdsArgs op) {
  const int i = Index();
  if (i >= op.count) return;
  const int32_t place = op.places[i];
  if (place >= 0) op.last[place] = max(op.tokens[i], 0);
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const ops::GatherIdsArgs& op) {
  if (op.tokens == 0) return absl::OkStatus();
  return Launch(stream, "gather_ids", ShapeOf(op.tokens), GatherId, op);
}

absl::Status Enqueue(DeviceStream stream, const ops::ScatterIdsArgs& op) {
  if (op.count == 0) return absl::OkStatus();
  return Launch(stream, "scatter_ids", ShapeOf(op.count), ScatterId, op);
}

}  // namespace shoal::cuda
