// Tested by: tests/kernels/cuda/expert_linear_test.cc
#include "kernels/cuda/sm80/experts/tile.h"
#include "kernels/cuda/sm80/linear/block_reader.h"

namespace shoal::cuda::linear {

absl::Status LaunchExpertsI4(DeviceStream stream, int tile, const ExpertWork& work) {
  return LaunchTile<I4Reader>(stream, "experts_int4", tile, work);
}

}  // namespace shoal::cuda::linear
