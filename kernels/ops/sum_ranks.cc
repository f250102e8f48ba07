// The same for every backend whose memory is the host's. Tested by tests/kernels/row_ops_test.cc
#include "kernels/ops/sum_ranks.h"

namespace shoal::ops {

absl::Status SumRanksOnHost(Stream& stream, const SumRanksArgs& a) {
  const float* const parts = a.parts;
  float* const y = a.y;
  for (int64_t i = 0; i < a.count; ++i) {
    float sum = parts[i];
    for (int r = 1; r < a.ranks; ++r) sum += parts[r * a.stride + i];
    y[i] = sum;
  }
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops
