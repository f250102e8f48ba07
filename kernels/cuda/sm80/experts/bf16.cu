// Tested by: tests/kernels/cuda/expert_linear_test.cc
#include "kernels/cuda/sm80/experts/tile.h"
#include "kernels/cuda/sm80/linear/plain_reader.h"

namespace shoal::cuda::linear {

absl::Status LaunchExpertsBf16(DeviceStream stream, int tile, const ExpertWork& work) {
  return LaunchTile<Bf16Reader>(stream, "experts_bf16", tile, work);
}

}  // namespace shoal::cuda::linear
