// Tested by: tests/kernels/cuda/expert_linear_test.cc
#include "kernels/cuda/sm80/experts/tile.h"
#include "kernels/cuda/sm80/linear/byte_reader.h"

namespace shoal::cuda::linear {

absl::Status LaunchExpertsI8(DeviceStream stream, int tile, const ExpertWork& work) {
  return LaunchTile<I8Reader>(stream, "experts_int8", tile, work);
}

}  // namespace shoal::cuda::linear
