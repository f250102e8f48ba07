// Tested by: tests/kernels/cuda/expert_linear_test.cc
#include "kernels/cuda/sm80/experts/tile.h"
#include "kernels/cuda/sm80/linear/block_reader.h"

namespace shoal::cuda::linear {

absl::Status LaunchExpertsQ4_0(DeviceStream stream, int tile, const ExpertWork& work) {
  return LaunchTile<Q4_0Reader>(stream, "experts_q4_0", tile, work);
}

}  // namespace shoal::cuda::linear
