// Tested by tests/kernels/layer_norm_test.cc
#include "kernels/ops/layer_norm.h"

#include "kernels/cpu/cpu.h"

namespace shoal::ops::cpu {

absl::Status LayerNorm(const KernelSet& set, Stream& stream, const LayerNormArgs& a) {
  const int tasks = TaskCount(stream, static_cast<int64_t>(a.tokens) * a.dim, a.tokens);
  ParallelFor(stream, tasks, [&](int task) {
    const int64_t end = static_cast<int64_t>(a.tokens) * (task + 1) / tasks;
    for (int64_t t = static_cast<int64_t>(a.tokens) * task / tasks; t < end; ++t) {
      set.layer_norm(a.x + t * a.dim, a.add == nullptr ? nullptr : a.add + t * a.dim, a.w, a.bias,
                     a.w == nullptr ? nullptr : a.y + t * a.dim, a.dim, a.eps);
    }
  });
  return absl::OkStatus();
}

}  // namespace shoal::ops::cpu
