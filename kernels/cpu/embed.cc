// Tested by tests/kernels/row_ops_test.cc
#include "kernels/ops/embed.h"

#include <algorithm>

#include "kernels/cpu/cpu.h"

namespace shoal::ops::cpu {

absl::Status Embed(const KernelSet& set, Stream& stream, const EmbedArgs& a) {
  const int64_t dim = a.table.k;
  const int tasks = TaskCount(stream, dim * a.tokens * 4, a.tokens);
  ParallelFor(stream, tasks, [&](int task) {
    const int end = static_cast<int>(static_cast<int64_t>(a.tokens) * (task + 1) / tasks);
    for (int t = static_cast<int>(static_cast<int64_t>(a.tokens) * task / tasks); t < end; ++t) {
      float* x = a.x + t * dim;
      const int64_t row = static_cast<int64_t>(a.ids[t]) - a.row_begin;
      if (row < 0 || row >= a.table.n) {
        std::fill(x, x + dim, 0.0f);
        continue;
      }
      UnpackRow(set.lanes, a.table.dtype, a.table.data, row, dim, x);
      if (a.table.row_scale != nullptr) {
        for (int64_t i = 0; i < dim; ++i) x[i] *= a.table.row_scale[row];
      }
      if (a.scale != 1.0f) {
        for (int64_t i = 0; i < dim; ++i) x[i] *= a.scale;
      }
      if (a.add == nullptr) continue;
      for (int64_t i = 0; i < dim; ++i) x[i] += a.add[i];
    }
  });
  return absl::OkStatus();
}

}  // namespace shoal::ops::cpu
