// Tested by: tests/kernels/cuda/expert_linear_test.cc
#include "kernels/cuda/sm80/experts/tile.h"

namespace shoal::cuda {
namespace {

using LaunchFn = absl::Status (*)(DeviceStream, int, const linear::ExpertWork&);

LaunchFn LaunchOf(DType type) {
  switch (type) {
    case DType::kBF16:
      return linear::LaunchExpertsBf16;
    case DType::kF16:
      return linear::LaunchExpertsF16;
    case DType::kQ8_0:
      return linear::LaunchExpertsQ8_0;
    case DType::kQ4_0:
      return linear::LaunchExpertsQ4_0;
    case DType::kQ4_1:
      return linear::LaunchExpertsQ4_1;
    case DType::kF8E4M3:
      return linear::LaunchExpertsF8E4M3;
    case DType::kI8:
      return linear::LaunchExpertsI8;
    case DType::kI4:
      return linear::LaunchExpertsI4;
    case DType::kF32:
      return nullptr;
  }
  return nullptr;
}

absl::Status Check(const ExpertLinear& op) {
  if (LaunchOf(op.type) == nullptr) return absl::InvalidArgumentError("experts: a type of weight it has no kernel for");
  if (op.k <= 0 || op.k % kQuantBlock != 0) return absl::InvalidArgumentError("experts: k is no multiple of 32");
  if (op.n < 0 || op.rows < 0 || op.experts < 1) return absl::InvalidArgumentError("experts: there are none");
  if (int64_t{op.n} * op.k / 8 > UINT32_MAX) return absl::InvalidArgumentError("experts: a weight of 2^35 elements");
  if (op.stride % 16 != 0) return absl::InvalidArgumentError("experts: a weight does not begin at 16 bytes");
  if (op.tile >= 0 && !linear::HasExpertTile(op.type, op.tile)) {
    return absl::InvalidArgumentError("experts: a tile that the type of weight has not");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Enqueue(DeviceStream stream, const ExpertLinear& op) {
  if (absl::Status bad = Check(op); !bad.ok()) return bad;
  linear::ExpertWork work = {.op = {.x = op.x, .parts = {}, .part_count = 0, .tokens = op.rows, .k = op.k},
                             .grid = {},
                             .stride = op.stride,
                             .first = op.first,
                             .experts = op.experts};
  int n[kMaxLinearParts] = {}, features = 0;
  for (const ExpertLinear::Part& part : op.parts) {
    if (part.w == nullptr) continue;
    features += n[work.op.part_count] = op.n;
    work.op.parts[work.op.part_count++] = {.w = part.w,
                                           .type = op.type,
                                           .n = op.n,
                                           .y = part.y,
                                           .y_f32 = nullptr,
                                           .y_stride = op.n,
                                           .row_scale = part.row_scale,
                                           .bias = part.bias};
  }
  if (op.rows == 0 || features == 0) return absl::OkStatus();
  const int tile = op.tile < 0 ? linear::ExpertTileFor(op.type, op.rows, op.experts, features) : op.tile;
  work.grid = linear::GridOf(linear::kTiles[tile], n, op.rows);
  work.grid.token_blocks = linear::ExpertTokenBlocks(linear::kTiles[tile].tokens, op.rows, op.experts);
  if (int64_t{work.grid.token_blocks} * work.grid.row_blocks_end[kMaxLinearParts - 1] > INT32_MAX) {
    return absl::InvalidArgumentError("experts: more tiles than a grid has");
  }
  return LaunchOf(op.type)(stream, tile, work);
}

}  // namespace shoal::cuda
