// Tested by tests/kernels/null_test.cc
#include "kernels/ops/matmul.h"

#include "kernels/null/null.h"

namespace shoal::ops::null {
namespace {

// The sum of the input's entries at multiples of 32; plain inputs may end in a short block.
float InputSum(const MatmulArgs& a, int64_t t, bool quantised) {
  const int64_t blocks = (a.k + kQuantBlock - 1) / kQuantBlock;
  float sum = 0;
  for (int64_t b = 0; b < blocks; ++b) sum += quantised ? a.xq->scale[t * blocks + b] : a.x[t * a.k + b * kQuantBlock];
  return sum;
}

}  // namespace

absl::Status Matmul(Stream& stream, const MatmulArgs& a) {
  for (int p = 0; p < a.part_count; ++p) {
    const MatmulPart& part = a.parts[p];
    for (int64_t t = 0; t < a.tokens; ++t) {
      const float sum = InputSum(a, t, IsQuantised(part.w.dtype));
      for (int64_t n = 0; n < part.w.n; n += kQuantBlock) part.y[t * part.y_stride + n] = sum;
    }
  }
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops::null
