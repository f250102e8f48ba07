// Tested by: tests/kernels/cuda/expert_linear_test.cc
#include "kernels/cuda/sm80/experts/tile.h"
#include "kernels/cuda/sm80/linear/byte_reader.h"

namespace shoal::cuda::linear {

absl::Status LaunchExpertsF8E4M3(DeviceStream stream, int tile, const ExpertWork& work) {
  return LaunchTile<F8E4M3Reader>(stream, "experts_fp8", tile, work);
}

}  // namespace shoal::cuda::linear
