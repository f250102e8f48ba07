// Tested by: tests/kernels/cuda/linear_test.cc
#include "kernels/cuda/sm80/linear/block_reader.h"
#include "kernels/cuda/sm80/linear/tile.h"

namespace shoal::cuda::linear {

absl::Status LaunchQ4_1(DeviceStream stream, int tile, const Work& work) {
  return LaunchTile<Q4_1Reader>(stream, "linear_q4_1", tile, work);
}

}  // namespace shoal::cuda::linear
