// Tested by tests/kernels/row_ops_test.cc
#include "kernels/ops/quantise.h"

#include "kernels/cpu/cpu.h"

namespace shoal::ops::cpu {

absl::Status Quantise(const KernelSet& set, Stream& stream, const QuantiseArgs& a) {
  if (a.k % kQuantBlock != 0) return absl::InvalidArgumentError("quantise: k is not a multiple of 32");
  const int tasks = TaskCount(stream, static_cast<int64_t>(a.tokens) * a.k, a.tokens);
  const int64_t blocks = a.k / kQuantBlock;
  ParallelFor(stream, tasks, [&](int task) {
    const int64_t end = static_cast<int64_t>(a.tokens) * (task + 1) / tasks;
    for (int64_t t = static_cast<int64_t>(a.tokens) * task / tasks; t < end; ++t) {
      set.quantise(a.x + t * a.k, a.k, a.out.q + t * a.k, a.out.scale + t * blocks, a.out.sum + t * blocks);
    }
  });
  return absl::OkStatus();
}

}  // namespace shoal::ops::cpu
