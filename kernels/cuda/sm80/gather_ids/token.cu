// Tested by: tests/kernels/cuda/gather_test.cc
// A thread for each token: 8 to 12 bytes, so the launch is all the time it takes.
#include "kernels/cuda/gather_ids.h"

namespace shoal::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) GatherId(const GatherIds op) {
  const int t = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (t >= op.tokens) return;
  const int32_t source = op.sources[t];
  op.ids[t] = source >= 0 ? source : op.mailbox[~source];
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const GatherIds& op) {
  if (op.tokens == 0) return absl::OkStatus();
  const LaunchShape shape = {dim3{static_cast<unsigned>((op.tokens + kThreads - 1) / kThreads)}, dim3{kThreads}, 0};
  return Launch(stream, "gather_ids", shape, GatherId, op);
}

}  // namespace shoal::cuda
