// Tested by: tests/kernels/cuda/linear_test.cc
#include "kernels/cuda/sm80/linear/block_reader.h"
#include "kernels/cuda/sm80/linear/tile.h"

namespace shoal::cuda::linear {

absl::Status LaunchI4(DeviceStream stream, int tile, const Work& work) {
  return LaunchTile<I4Reader>(stream, "linear_int4", tile, work);
}

}  // namespace shoal::cuda::linear
