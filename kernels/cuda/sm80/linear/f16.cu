// Tested by: tests/kernels/cuda/linear_test.cc
#include "kernels/cuda/sm80/linear/plain_reader.h"
#include "kernels/cuda/sm80/linear/tile.h"

namespace shoal::cuda::linear {

absl::Status LaunchF16(DeviceStream stream, int tile, const Work& work) {
  return LaunchTile<F16Reader>(stream, "linear_f16", tile, work);
}

}  // namespace shoal::cuda::linear
