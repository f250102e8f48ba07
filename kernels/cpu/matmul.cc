#include "kernels/ops/matmul.h"

#include <algorithm>

#include "kernels/cpu/cpu.h"

namespace shoal::ops::cpu {
namespace {

// A task keeps at least this much of the weights, so that claiming it is cheap beside it (about 1 us at 20 GB/s), and
// at most so much that it stays in a core's second-level cache while all token tiles pass over it.
constexpr int64_t kTaskBytesMin = 16 << 10, kTaskBytesMax = 128 << 10;
constexpr int kTasksPerThread = 8;

struct Cut {
  int64_t group_bytes[kMaxMatmulParts];
  int64_t groups_per_task[kMaxMatmulParts];
  int first_task[kMaxMatmulParts + 1];  // of each part; the last entry is the total
};

Cut CutTasks(const KernelSet& set, const Stream& stream, const MatmulArgs& a) {
  Cut cut{};
  int64_t bytes = 0;
  for (int p = 0; p < a.part_count; ++p) {
    bytes += static_cast<int64_t>(PackedBytes(set.lanes, a.parts[p].w.dtype, a.parts[p].w.n, a.k));
  }
  const int64_t target = stream.threads() == 1
                             ? kTaskBytesMax
                             : std::clamp(bytes / (stream.threads() * kTasksPerThread), kTaskBytesMin, kTaskBytesMax);
  for (int p = 0; p < a.part_count; ++p) {
    cut.group_bytes[p] = GroupBytes(set.lanes, a.parts[p].w.dtype, a.k);
    const int64_t groups = (a.parts[p].w.n + set.lanes - 1) / set.lanes;
    cut.groups_per_task[p] = std::max<int64_t>(1, target / std::max<int64_t>(1, cut.group_bytes[p]));
    const int64_t tasks = (groups + cut.groups_per_task[p] - 1) / cut.groups_per_task[p];
    cut.first_task[p + 1] = cut.first_task[p] + static_cast<int>(tasks);
  }
  return cut;
}

void RunTask(const KernelSet& set, const MatmulArgs& a, const Cut& cut, int p, int64_t task) {
  const MatmulPart& part = a.parts[p];
  const int64_t first_row = task * cut.groups_per_task[p] * set.lanes;
  const int64_t rows = std::min(part.w.n - first_row, cut.groups_per_task[p] * set.lanes);
  const bool quantised = a.xq != nullptr;
  const MatmulTask t = {
      .w = static_cast<const uint8_t*>(part.w.data) + task * cut.groups_per_task[p] * cut.group_bytes[p],
      .group_bytes = cut.group_bytes[p],
      .rows = static_cast<int>(rows),
      .k = a.k,
      .tokens = a.tokens,
      .x = a.x,
      .q = quantised ? a.xq->q : nullptr,
      .scale = quantised ? a.xq->scale : nullptr,
      .sum = quantised ? a.xq->sum : nullptr,
      .y = part.y + first_row,
      .y_stride = part.y_stride,
  };
  set.matmul[static_cast<size_t>(part.w.dtype)](t);
  if (part.w.row_scale == nullptr) return;
  for (int64_t token = 0; token < a.tokens; ++token) {
    for (int64_t r = 0; r < rows; ++r) t.y[token * part.y_stride + r] *= part.w.row_scale[first_row + r];
  }
}

}  // namespace

absl::Status Matmul(const KernelSet& set, Stream& stream, const MatmulArgs& a) {
  for (int p = 0; p < a.part_count; ++p) {
    const bool quantised = IsQuantised(a.parts[p].w.dtype);
    if (a.parts[p].w.k != a.k) return absl::InvalidArgumentError("matmul: a part's k differs from the input's");
    if (quantised && a.k % kQuantBlock != 0) return absl::InvalidArgumentError("matmul: k is not a multiple of 32");
    if (quantised ? a.xq == nullptr : a.x == nullptr) return absl::InvalidArgumentError("matmul: input missing");
  }
  const Cut cut = CutTasks(set, stream, a);
  ParallelFor(stream, cut.first_task[a.part_count], [&](int task) {
    int p = 0;
    while (task >= cut.first_task[p + 1]) ++p;
    RunTask(set, a, cut, p, task - cut.first_task[p]);
  });
  return absl::OkStatus();
}

}  // namespace shoal::ops::cpu
