// Tested by: tests/kernels/cuda/expert_linear_test.cc
#include "kernels/cuda/sm80/experts/tile.h"
#include "kernels/cuda/sm80/linear/plain_reader.h"

namespace shoal::cuda::linear {

absl::Status LaunchExpertsF16(DeviceStream stream, int tile, const ExpertWork& work) {
  return LaunchTile<F16Reader>(stream, "experts_f16", tile, work);
}

}  // namespace shoal::cuda::linear
