// Tested by: tests/kernels/cuda/linear_test.cc
#include "kernels/cuda/sm80/linear/byte_reader.h"
#include "kernels/cuda/sm80/linear/tile.h"

namespace shoal::cuda::linear {

absl::Status LaunchI8(DeviceStream stream, int tile, const Work& work) {
  return LaunchTile<I8Reader>(stream, "linear_int8", tile, work);
}

}  // namespace shoal::cuda::linear
