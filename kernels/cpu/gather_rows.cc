// Tested by tests/kernels/row_ops_test.cc
#include "kernels/ops/gather_rows.h"

#include <algorithm>

#include "kernels/cpu/cpu.h"

namespace shoal::ops::cpu {

absl::Status GatherRows(Stream& stream, const GatherRowsArgs& a) {
  const float* const x = a.x.as<float>();
  float* const y = a.y.as<float>();
  const int tasks = TaskCount(stream, int64_t{a.count} * a.dim, a.count);
  ParallelFor(stream, tasks, [&](int task) {
    const int end = static_cast<int>(int64_t{a.count} * (task + 1) / tasks);
    for (int i = static_cast<int>(int64_t{a.count} * task / tasks); i < end; ++i) {
      std::copy_n(x + int64_t{a.rows[i]} * a.dim, a.dim, y + int64_t{i} * a.dim);
    }
  });
  return absl::OkStatus();
}

}  // namespace shoal::ops::cpu
