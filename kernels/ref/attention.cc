#include "kernels/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/ref/ref.h"

namespace shoal::ops::ref {
namespace {

// The cached head row of position `p`, as floats.
void LoadRow(const KvLayer& c, const void* cache, const AttentionSequence& s, int p, int kv_head, float* out) {
  const int64_t block = s.block_table[p / c.block_size];
  const int64_t at = ((block * c.kv_heads + kv_head) * c.block_size + p % c.block_size) * c.head_dim;
  DequantiseRow(c.dtype, static_cast<const char*>(cache) + RowBytes(c.dtype, at), c.head_dim, out);
}

void AttendHead(const AttentionArgs& a, const AttentionSequence& s, int row, int head) {
  const int dim = a.cache.head_dim, kv_head = a.q_to_kv[head], first = FirstSeen(a, s, row), end = EndSeen(a, s, row);
  const int64_t token = s.row_begin + row;
  const float* q = a.q + token * a.q_stride + static_cast<int64_t>(head) * dim;
  std::vector<float> kv(static_cast<size_t>(dim));
  std::vector<double> score(static_cast<size_t>(end)), out(static_cast<size_t>(dim), 0.0);
  double max = -std::numeric_limits<double>::infinity();
  for (int p = first; p < end; ++p) {
    LoadRow(a.cache, a.cache.k, s, p, kv_head, kv.data());
    double dot = 0;
    for (int d = 0; d < dim; ++d) dot += static_cast<double>(q[d]) * kv[static_cast<size_t>(d)];
    const double scaled = dot * a.scale;
    score[static_cast<size_t>(p)] = a.soft_cap > 0 ? a.soft_cap * std::tanh(scaled / a.soft_cap) : scaled;
    max = std::max(max, score[static_cast<size_t>(p)]);
  }
  double total = 0;
  for (int p = first; p < end; ++p) {
    const double w = std::exp(score[static_cast<size_t>(p)] - max);
    LoadRow(a.cache, a.cache.v, s, p, kv_head, kv.data());
    for (int d = 0; d < dim; ++d) out[static_cast<size_t>(d)] += w * kv[static_cast<size_t>(d)];
    total += w;
  }
  float* y = a.out + (token * a.q_heads + head) * dim;
  for (int d = 0; d < dim; ++d) y[d] = static_cast<float>(out[static_cast<size_t>(d)] / total);
}

}  // namespace

absl::Status Attention(Stream& stream, const AttentionArgs& a) {
  for (int i = 0; i < a.sequence_count; ++i) {
    const AttentionSequence& s = a.sequences[i];
    ParallelFor(stream, s.row_count * a.q_heads,
                [&](int task) { AttendHead(a, s, task / a.q_heads, task % a.q_heads); });
  }
  return absl::OkStatus();
}

}  // namespace shoal::ops::ref
