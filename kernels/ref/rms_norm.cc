// Tested by tests/kernels/row_ops_test.cc
#include "kernels/ops/rms_norm.h"

#include <cmath>

#include "kernels/ref/join.h"
#include "kernels/ref/ref.h"

namespace shoal::ops::ref {

absl::Status RmsNorm(Stream& stream, const RmsNormArgs& a) {
  for (int64_t t = 0; t < a.tokens; ++t) {
    float* x = a.x + t * a.dim;
    Join(x, a.add == nullptr ? nullptr : a.add + t * a.dim, a.dim);
    if (a.w == nullptr) continue;
    double squares = 0;
    for (int i = 0; i < a.dim; ++i) squares += static_cast<double>(x[i]) * x[i];
    const double inverse = 1.0 / std::sqrt(squares / a.dim + a.eps);
    for (int i = 0; i < a.dim; ++i) {
      a.y[t * a.dim + i] = static_cast<float>(x[i] * inverse * (static_cast<double>(a.w[i]) + a.weight_bias));
    }
  }
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops::ref
