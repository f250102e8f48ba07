// Tested by: tests/kernels/cuda/linear_test.cc
#include "kernels/cuda/sm80/linear/tile.h"

namespace shoal::cuda {
namespace {

using LaunchFn = absl::Status (*)(DeviceStream, int, const linear::Work&);

LaunchFn LaunchOf(DType type) {
  switch (type) {
    case DType::kBF16:
      return linear::LaunchBf16;
    case DType::kF16:
      return linear::LaunchF16;
    case DType::kQ8_0:
      return linear::LaunchQ8_0;
    case DType::kQ4_0:
      return linear::LaunchQ4_0;
    case DType::kQ4_1:
      return linear::LaunchQ4_1;
    case DType::kF8E4M3:
      return linear::LaunchF8E4M3;
    case DType::kI8:
      return linear::LaunchI8;
    case DType::kI4:
      return linear::LaunchI4;
    case DType::kF32:
      return nullptr;
  }
  return nullptr;
}

absl::Status Check(const Linear& op) {
  if (op.part_count < 0 || op.part_count > kMaxLinearParts) return absl::InvalidArgumentError("linear: too many parts");
  if (op.k <= 0 || op.k % kQuantBlock != 0) return absl::InvalidArgumentError("linear: k is no multiple of 32");
  for (int p = 0; p < op.part_count; ++p) {
    const LinearPart& part = op.parts[p];
    if (LaunchOf(part.type) == nullptr)
      return absl::InvalidArgumentError("linear: a type of weight it has no kernel for");
    if (op.tile >= 0 && !linear::HasTile(part.type, op.tile))
      return absl::InvalidArgumentError("linear: a tile that a type of weight has not");
    if (int64_t{part.n} * op.k / 8 > UINT32_MAX) return absl::InvalidArgumentError("linear: a weight of 2^35 elements");
    if (part.n < 0 || part.y_stride < part.n) return absl::InvalidArgumentError("linear: rows of y overlap");
    if ((part.y == nullptr) == (part.y_f32 == nullptr))
      return absl::InvalidArgumentError("linear: y in one type or the other");
  }
  return absl::OkStatus();
}

// The parts whose weight is like that of part `first`, all others left out.
absl::Status EnqueueType(DeviceStream stream, const Linear& op, int first) {
  linear::Work work = {op, {}};
  int n[kMaxLinearParts] = {}, rows = 0;
  for (int p = first; p < op.part_count; ++p) {
    if (op.parts[p].type == op.parts[first].type) rows += n[p] = op.parts[p].n;
  }
  if (rows == 0) return absl::OkStatus();
  const int tile = op.tile < 0 ? linear::TileFor(op.parts[first].type, op.tokens, rows) : op.tile;
  work.grid = linear::GridOf(linear::kTiles[tile], n, op.tokens);
  return LaunchOf(op.parts[first].type)(stream, tile, work);
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const Linear& op) {
  if (absl::Status bad = Check(op); !bad.ok()) return bad;
  if (op.tokens == 0) return absl::OkStatus();
  for (int p = 0; p < op.part_count; ++p) {
    bool done = false;
    for (int before = 0; before < p; ++before) done |= op.parts[before].type == op.parts[p].type;
    if (done) continue;
    if (absl::Status bad = EnqueueType(stream, op, p); !bad.ok()) return bad;
  }
  return absl::OkStatus();
}

}  // namespace shoal::cuda
