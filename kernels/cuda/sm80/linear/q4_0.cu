// Tested by: tests/kernels/cuda/linear_test.cc
#include "kernels/cuda/sm80/linear/block_reader.h"
#include "kernels/cuda/sm80/linear/tile.h"

namespace shoal::cuda::linear {

absl::Status LaunchQ4_0(DeviceStream stream, int tile, const Work& work) {
  return LaunchTile<Q4_0Reader>(stream, "linear_q4_0", tile, work);
}

}  // namespace shoal::cuda::linear
