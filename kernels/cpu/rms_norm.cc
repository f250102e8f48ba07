// Tested by tests/kernels/row_ops_test.cc
#include "kernels/ops/rms_norm.h"

#include "kernels/cpu/cpu.h"

namespace shoal::ops::cpu {

absl::Status RmsNorm(const KernelSet& set, Stream& stream, const RmsNormArgs& a) {
  const int tasks = TaskCount(stream, static_cast<int64_t>(a.tokens) * a.dim, a.tokens);
  ParallelFor(stream, tasks, [&](int task) {
    const int64_t end = static_cast<int64_t>(a.tokens) * (task + 1) / tasks;
    for (int64_t t = static_cast<int64_t>(a.tokens) * task / tasks; t < end; ++t) {
      set.rms_norm(a.x + t * a.dim, a.add == nullptr ? nullptr : a.add + t * a.dim, a.w,
                   a.w == nullptr ? nullptr : a.y + t * a.dim, a.dim, a.eps, a.weight_bias);
    }
  });
  return absl::OkStatus();
}

}  // namespace shoal::ops::cpu
