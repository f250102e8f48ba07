// Tested by tests/kernels/row_ops_test.cc
#include "kernels/ops/quantise.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/ref/ref.h"

namespace shoal::ops::ref {
namespace {

void QuantiseBlock(const float* x, int8_t* q, float* scale, float* sum) {
  float max = 0;
  bool finite = true;
  for (int i = 0; i < kQuantBlock; ++i) {
    max = std::max(max, std::fabs(x[i]));
    finite = finite && std::isfinite(x[i]);
  }
  const float d = max / 127.0f;
  if (!finite || d == 0) {
    std::fill(q, q + kQuantBlock, int8_t{0});
    *scale = *sum = finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    return;
  }
  int total = 0;
  for (int i = 0; i < kQuantBlock; ++i) {
    // The clamp matters only where d is subnormal and x / d can pass 127.
    q[i] = static_cast<int8_t>(std::clamp(std::nearbyint(x[i] / d), -127.0f, 127.0f));
    total += q[i];
  }
  *scale = d;
  *sum = d * static_cast<float>(total);
}

}  // namespace

absl::Status Quantise(Stream& stream, const QuantiseArgs& a) {
  if (a.k % kQuantBlock != 0) return absl::InvalidArgumentError("quantise: k is not a multiple of 32");
  const int64_t blocks = static_cast<int64_t>(a.tokens) * (a.k / kQuantBlock);
  for (int64_t b = 0; b < blocks; ++b) {
    QuantiseBlock(a.x + b * kQuantBlock, a.out.q + b * kQuantBlock, a.out.scale + b, a.out.sum + b);
  }
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops::ref
