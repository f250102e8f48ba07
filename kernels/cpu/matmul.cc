#include "kernels/ops/matmul.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <span>
#include <vector>

#include "common/base/status_macros.h"
#include "kernels/cpu/cpu.h"
#include "kernels/ops/experts.h"

namespace shoal::ops::cpu {
namespace {

// A task keeps at least this much of the weights, so that claiming it is cheap beside it (about 1 us at 20 GB/s), and
// at most so much that it stays in a core's second-level cache while all token tiles pass over it.
constexpr int64_t kTaskBytesMin = 16 << 10, kTaskBytesMax = 128 << 10;
constexpr int kTasksPerThread = 8;

// One product of one input.
struct Piece {
  const MatmulArgs* a = nullptr;
  const MatmulPart* part = nullptr;
  int64_t group_bytes = 0, groups_per_task = 0;
  int first_task = 0;
};

// Fills all of a piece but a and part; returns how many tasks there are.
int CutTasks(const KernelSet& set, const Stream& stream, std::span<Piece> pieces) {
  int64_t bytes = 0;
  for (const Piece& p : pieces) {
    bytes += static_cast<int64_t>(PackedBytes(set.lanes, p.part->w.dtype, p.part->w.n, p.a->k));
  }
  const int64_t target = stream.threads() == 1
                             ? kTaskBytesMax
                             : std::clamp(bytes / (stream.threads() * kTasksPerThread), kTaskBytesMin, kTaskBytesMax);
  int tasks = 0;
  for (Piece& p : pieces) {
    p.group_bytes = GroupBytes(set.lanes, p.part->w.dtype, p.a->k);
    const int64_t groups = (p.part->w.n + set.lanes - 1) / set.lanes;
    p.groups_per_task = std::max<int64_t>(1, target / std::max<int64_t>(1, p.group_bytes));
    p.first_task = tasks;
    tasks += static_cast<int>((groups + p.groups_per_task - 1) / p.groups_per_task);
  }
  return tasks;
}

// What a row's sums become: ops::Weight has the order.
void Finish(const Weight& w, int64_t first_row, int64_t rows, float* y) {
  if (w.row_scale != nullptr) {
    for (int64_t r = 0; r < rows; ++r) y[r] *= w.row_scale[first_row + r];
  }
  if (w.bias != nullptr) {
    for (int64_t r = 0; r < rows; ++r) y[r] += w.bias[first_row + r];
  }
}

void RunTask(const KernelSet& set, const Piece& piece, int64_t task) {
  const MatmulArgs& a = *piece.a;
  const MatmulPart& part = *piece.part;
  const int64_t first_row = task * piece.groups_per_task * set.lanes;
  const int64_t rows = std::min(part.w.n - first_row, piece.groups_per_task * set.lanes);
  const bool quantised = a.xq != nullptr;
  const MatmulTask t = {
      .w = static_cast<const uint8_t*>(part.w.data) + task * piece.groups_per_task * piece.group_bytes,
      .group_bytes = piece.group_bytes,
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
  if (part.w.row_scale == nullptr && part.w.bias == nullptr) return;
  for (int64_t token = 0; token < a.tokens; ++token) Finish(part.w, first_row, rows, t.y + token * part.y_stride);
}

void Run(const KernelSet& set, Stream& stream, std::span<Piece> pieces) {
  const int tasks = CutTasks(set, stream, pieces);
  ParallelFor(stream, tasks, [&](int task) {
    const auto after = std::upper_bound(pieces.begin(), pieces.end(), task,
                                        [](int t, const Piece& piece) { return t < piece.first_task; });
    const Piece& piece = *std::prev(after);
    RunTask(set, piece, task - piece.first_task);
  });
}

absl::Status Check(const MatmulPart& part, const MatmulArgs& a) {
  const bool quantised = IsQuantised(part.w.dtype);
  if (part.w.k != a.k) return absl::InvalidArgumentError("matmul: a part's k differs from the input's");
  if (quantised && a.k % kQuantBlock != 0) return absl::InvalidArgumentError("matmul: k is not a multiple of 32");
  if (quantised ? a.xq == nullptr : a.x == nullptr) return absl::InvalidArgumentError("matmul: input missing");
  return absl::OkStatus();
}

}  // namespace

absl::Status Matmul(const KernelSet& set, Stream& stream, const MatmulArgs& a) {
  std::array<Piece, kMaxMatmulParts> pieces{};
  for (int p = 0; p < a.part_count; ++p) {
    SHOAL_RETURN_IF_ERROR(Check(a.parts[p], a));
    pieces[static_cast<size_t>(p)] = {.a = &a, .part = &a.parts[p]};
  }
  Run(set, stream, std::span(pieces).first(static_cast<size_t>(a.part_count)));
  return absl::OkStatus();
}

// Every expert's rows are an input of their own; those of all experts are one parallel region.
absl::Status ExpertMatmul(const KernelSet& set, Stream& stream, const ExpertMatmulArgs& a) {
  std::vector<MatmulArgs> inputs(static_cast<size_t>(a.experts));
  std::vector<QuantisedActs> quantised(inputs.size());
  std::vector<Piece> pieces;
  for (int e = 0; e < a.experts; ++e) {
    const int64_t row = a.first[e], rows = a.first[e + 1] - row;
    if (rows == 0) continue;
    MatmulArgs& input = inputs[static_cast<size_t>(e)];
    input = {.x = a.x == nullptr ? nullptr : a.x + row * a.k,
             .xq = nullptr,
             .parts = {},
             .part_count = a.part_count,
             .tokens = static_cast<int>(rows),
             .k = a.k};
    if (a.xq != nullptr) {
      const int64_t blocks = row * (a.k / kQuantBlock);
      quantised[static_cast<size_t>(e)] = {a.xq->q + row * a.k, a.xq->scale + blocks, a.xq->sum + blocks};
      input.xq = &quantised[static_cast<size_t>(e)];
    }
    for (int p = 0; p < a.part_count; ++p) {
      const Weight w = WeightOf(a.parts[p].w, e);
      input.parts[p] = {.w = w, .y = a.parts[p].y + row * w.n, .y_stride = w.n};
      SHOAL_RETURN_IF_ERROR(Check(input.parts[p], input));
      pieces.push_back({.a = &input, .part = &input.parts[p]});
    }
  }
  Run(set, stream, pieces);
  return absl::OkStatus();
}

}  // namespace shoal::ops::cpu
