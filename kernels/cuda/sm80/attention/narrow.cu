// Tested by: tests/kernels/cuda/attention_test.cc
// A worker is one warp, whose own three half tiles keep two in flight: four workers with head_dim 128 have 128 KiB on
// the way to a multiprocessor, some four times what its share of the memory's bandwidth times its latency asks for.
#include <algorithm>

#include "kernels/cuda/sm80/attention/attend.h"

namespace shoal::cuda {
namespace {

constexpr int kRing = 3;
constexpr size_t kReserved = 1024;  // shared memory that a block costs beside its own (CUDA C++ Programming Guide)

size_t BytesOf(int head_dim, int tile_rows) {
  if (head_dim > 128) return sizeof(AttendShared<256, 1, 1, kRing>);
  if (tile_rows == 8) {
    return head_dim > 64 ? sizeof(AttendShared<128, 1, 1, kRing>) : sizeof(AttendShared<64, 1, 1, kRing>);
  }
  return head_dim > 64 ? sizeof(AttendShared<128, 2, 1, kRing>) : sizeof(AttendShared<64, 2, 1, kRing>);
}

template <int kDim, int kColumns>
absl::Status LaunchNarrow(DeviceStream stream, const Attention& op) {
  return LaunchAttend<kDim, kColumns, 1, kRing>(stream, "attention, narrow", op, op.narrow);
}

}  // namespace

int NarrowWorkers(int head_dim, int tile_rows, size_t shared_bytes) {
  return static_cast<int>(std::clamp<size_t>(shared_bytes / (BytesOf(head_dim, tile_rows) + kReserved), 1, kWarpsHeld));
}

absl::Status EnqueueNarrow(DeviceStream stream, const Attention& op) {
  if (op.head_dim > 128) return LaunchNarrow<256, 1>(stream, op);
  if (op.narrow_rows == 8) return op.head_dim > 64 ? LaunchNarrow<128, 1>(stream, op) : LaunchNarrow<64, 1>(stream, op);
  return op.head_dim > 64 ? LaunchNarrow<128, 2>(stream, op) : LaunchNarrow<64, 2>(stream, op);
}

}  // namespace shoal::cuda
