// Tested by tests/kernels/row_ops_test.cc
#include "kernels/ops/soft_cap.h"

#include <algorithm>

#include "kernels/cpu/cpu.h"

namespace shoal::ops::cpu {

absl::Status SoftCap(const KernelSet& set, Stream& stream, const SoftCapArgs& a) {
  constexpr int64_t kPiece = 1024;  // elements
  const int64_t pieces = (a.count + kPiece - 1) / kPiece;
  const int tasks = TaskCount(stream, a.count * 4, pieces);
  ParallelFor(stream, tasks, [&](int task) {
    const int64_t begin = pieces * task / tasks * kPiece;
    const int64_t end = std::min(a.count, pieces * (task + 1) / tasks * kPiece);
    set.soft_cap(a.y + begin, end - begin, a.scale, a.cap);
  });
  return absl::OkStatus();
}

}  // namespace shoal::ops::cpu
