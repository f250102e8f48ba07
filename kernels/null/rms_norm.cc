// Tested by tests/kernels/null_test.cc
#include "kernels/ops/rms_norm.h"

#include <algorithm>

#include "kernels/null/null.h"

namespace shoal::ops::null {

absl::Status RmsNorm(Stream& stream, const RmsNormArgs& a) {
  for (int64_t t = 0; t < a.tokens; ++t) {
    float* x = a.x + t * a.dim;
    if (a.add != nullptr) x[0] = static_cast<float>(ToInteger(x[0] + a.add[t * a.dim]) & kHiddenMask);
    if (a.w == nullptr) continue;
    const auto carried = static_cast<float>(ToInteger(x[0]) & kHiddenMask);
    float* y = a.y + t * a.dim;
    std::fill(y, y + a.dim, 0.0f);  // may be x
    y[0] = carried;
  }
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops::null
