// Tested by: tests/kernels/cuda/linear_test.cc
#include "kernels/cuda/sm80/linear/byte_reader.h"
#include "kernels/cuda/sm80/linear/tile.h"

namespace shoal::cuda::linear {

absl::Status LaunchF8E4M3(DeviceStream stream, int tile, const Work& work) {
  return LaunchTile<F8E4M3Reader>(stream, "linear_fp8", tile, work);
}

}  // namespace shoal::cuda::linear
