// Tested by tests/kernels/row_ops_test.cc
#include "kernels/ops/glu.h"

#include <algorithm>

#include "kernels/cpu/cpu.h"

namespace shoal::ops::cpu {

absl::Status Glu(const KernelSet& set, Stream& stream, const GluArgs& a) {
  constexpr int64_t kPiece = 256;  // elements; a task's borders, so that vectors never straddle them
  const int64_t count = static_cast<int64_t>(a.tokens) * a.dim, pieces = (count + kPiece - 1) / kPiece;
  const int tasks = TaskCount(stream, count * 4, pieces);
  const auto kernel = set.glu[static_cast<size_t>(a.activation)];
  ParallelFor(stream, tasks, [&](int task) {
    const int64_t begin = pieces * task / tasks * kPiece;
    const int64_t end = std::min(count, pieces * (task + 1) / tasks * kPiece);
    kernel(a.gate + begin, a.up == nullptr ? nullptr : a.up + begin, a.y + begin, end - begin);
  });
  return absl::OkStatus();
}

}  // namespace shoal::ops::cpu
