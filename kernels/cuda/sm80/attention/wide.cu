// Tested by: tests/kernels/cuda/attention_test.cc
// A worker is a block of eight warps, of 16 rows each (8 with head_dim 256, for registers): a byte of K or V that it
// copies serves 128 rows, so that prefill asks the L2 cache for about half of what it gives. A multiprocessor holds
// one worker: of two, with half the registers each, both would spill.
#include "kernels/cuda/sm80/attention/attend.h"

namespace shoal::cuda {
namespace {

constexpr int kWarps = 8;

}  // namespace

absl::Status EnqueueWide(DeviceStream stream, const Attention& op) {
  constexpr const char* kName = "attention, wide";
  if (op.head_dim > 128) return LaunchAttend<256, 1, kWarps, 3>(stream, kName, op, op.wide);
  if (op.head_dim > 64) return LaunchAttend<128, 2, kWarps, 4>(stream, kName, op, op.wide);
  return LaunchAttend<64, 2, kWarps, 4>(stream, kName, op, op.wide);
}

}  // namespace shoal::cuda
