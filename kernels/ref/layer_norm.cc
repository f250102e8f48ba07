// Tested by tests/kernels/layer_norm_test.cc
#include "kernels/ops/layer_norm.h"

#include <cmath>

#include "kernels/ref/join.h"
#include "kernels/ref/ref.h"

namespace shoal::ops::ref {

absl::Status LayerNorm(Stream& stream, const LayerNormArgs& a) {
  for (int64_t t = 0; t < a.tokens; ++t) {
    float* x = a.x + t * a.dim;
    Join(x, a.add == nullptr ? nullptr : a.add + t * a.dim, a.dim);
    if (a.w == nullptr) continue;
    double mean = 0, squares = 0;
    for (int i = 0; i < a.dim; ++i) mean += x[i];
    mean /= a.dim;
    for (int i = 0; i < a.dim; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const double inverse = 1.0 / std::sqrt(squares / a.dim + a.eps);
    for (int i = 0; i < a.dim; ++i) {
      const double bias = a.bias == nullptr ? 0.0 : a.bias[i];
      a.y[t * a.dim + i] = static_cast<float>((x[i] - mean) * inverse * a.w[i] + bias);
    }
  }
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops::ref
