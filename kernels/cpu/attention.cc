#include "kernels/ops/attention.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/cpu.h"

// Work is cut into units: (sequence, query heads of one kv head, some rows). For up to kSplitTokens tokens (decode)
// each context split of a unit is a task of its own, whose partial result goes to the workspace, and a second pass
// folds them in order; with more tokens a unit is one task that folds as it goes. Both fold with the same operations in
// the same order.
namespace shoal::ops::cpu {
namespace {

static_assert(kKeyTile == 32 && kContextSplit == 1024, "attention_kernel.h has the same numbers");

constexpr int kSplitTokens = 8;
constexpr int kRowsPerUnit = 16;

struct Unit {
  int sequence, row_begin, rows, head_begin, heads;
  int64_t first_state;  // counts (row, head) pairs of the batch, for the workspace
};

int SplitsOf(int last_position) { return last_position / kContextSplit + 1; }

std::vector<Unit> CutUnits(const AttentionArgs& a) {
  std::vector<Unit> units;
  int64_t states = 0;
  for (int i = 0; i < a.sequence_count; ++i) {
    for (int begin = 0, end = 0; begin < a.q_heads; begin = end) {
      while (end < a.q_heads && a.q_to_kv[end] == a.q_to_kv[begin] && end - begin < kMaxAttendStates) ++end;
      const int heads = end - begin, step = std::clamp(kMaxAttendStates / heads, 1, kRowsPerUnit);
      for (int row = 0; row < a.sequences[i].row_count; row += step) {
        const int rows = std::min(step, a.sequences[i].row_count - row);
        units.push_back({i, row, rows, begin, heads, states});
        states += rows * heads;
      }
    }
  }
  return units;
}

AttendTask TaskOf(const AttentionArgs& a, const Unit& u) {
  const AttentionSequence& s = a.sequences[u.sequence];
  const int64_t token = s.row_begin + u.row_begin, dim = a.cache.head_dim;
  return {.q = a.q + token * a.q_stride + u.head_begin * dim,
          .out = a.out + (token * a.q_heads + u.head_begin) * dim,
          .q_stride = a.q_stride,
          .out_stride = a.q_heads * dim,
          .rows = u.rows,
          .heads = u.heads,
          .head_dim = a.cache.head_dim,
          .position = s.position + u.row_begin,
          .window = a.window,
          .keys = a.causal ? 0 : s.position + s.row_count,
          .scale = a.scale,
          .soft_cap = a.soft_cap,
          .k = static_cast<const uint8_t*>(a.cache.k),
          .v = static_cast<const uint8_t*>(a.cache.v),
          .dtype = static_cast<uint8_t>(a.cache.dtype),
          .block_size = a.cache.block_size,
          .kv_heads = a.cache.kv_heads,
          .kv_head = a.q_to_kv[u.head_begin],
          .block_table = s.block_table,
          .split_begin = FirstSeen(a, s, u.row_begin) / kContextSplit,
          .split_end = SplitsOf(EndSeen(a, s, u.row_begin + u.rows - 1) - 1),
          .partial = nullptr};
}

// `splits`: of the longest context of the batch.
void AttendSplits(const KernelSet& set, Stream& stream, const AttentionArgs& a, const std::vector<Unit>& units,
                  int splits) {
  const int64_t state_floats = a.cache.head_dim + 2;
  const int64_t split_floats = (units.back().first_state + units.back().rows * units.back().heads) * state_floats;
  const int count = static_cast<int>(units.size());
  ParallelFor(stream, count * splits, [&](int i) {
    const Unit& u = units[static_cast<size_t>(i % count)];
    AttendTask task = TaskOf(a, u);
    const int split = i / count;
    if (split < task.split_begin || split >= task.split_end) return;
    task.split_begin = split;
    task.split_end = split + 1;
    task.partial = a.workspace + split * split_floats + u.first_state * state_floats;
    set.attend(task);
  });
  for (const Unit& u : units) {
    const AttendTask task = TaskOf(a, u);
    const AttentionSequence& s = a.sequences[u.sequence];
    for (int i = 0; i < u.rows * u.heads; ++i) {
      const int row = u.row_begin + i / u.heads;
      set.fold({.partial = a.workspace + (u.first_state + i) * state_floats,
                .stride = split_floats,
                .first = FirstSeen(a, s, row) / kContextSplit,
                .splits = SplitsOf(EndSeen(a, s, row) - 1),
                .head_dim = task.head_dim,
                .out = task.out + i / u.heads * task.out_stride + static_cast<int64_t>(i % u.heads) * task.head_dim});
    }
  }
}

}  // namespace

int64_t AttentionWorkspace(int /*threads*/, int tokens, int q_heads, int head_dim, int max_context) {
  const int64_t splits = SplitsOf(std::max(0, max_context - 1));
  return std::min(tokens, kSplitTokens) * splits * q_heads * (head_dim + 2);
}

absl::Status Attention(const KernelSet& set, Stream& stream, const AttentionArgs& a) {
  if (a.cache.head_dim > kMaxHeadDim) return absl::UnimplementedError("attention: head_dim above 256");
  if (a.window > 0 && !a.causal) return absl::InvalidArgumentError("attention: a window without an order");
  int tokens = 0, splits = 1;
  for (int i = 0; i < a.sequence_count; ++i) {
    tokens += a.sequences[i].row_count;
    splits = std::max(splits, SplitsOf(a.sequences[i].position + a.sequences[i].row_count - 1));
  }
  const std::vector<Unit> units = CutUnits(a);
  if (units.empty()) return absl::OkStatus();
  if (tokens <= kSplitTokens && splits > 1) {
    AttendSplits(set, stream, a, units, splits);
    return absl::OkStatus();
  }
  ParallelFor(stream, static_cast<int>(units.size()),
              [&](int i) { set.attend(TaskOf(a, units[static_cast<size_t>(i)])); });
  return absl::OkStatus();
}

}  // namespace shoal::ops::cpu
