// Tested by tests/kernels/row_ops_test.cc
#include "kernels/ops/glu.h"

#include <cmath>

#include "kernels/ref/ref.h"

namespace shoal::ops::ref {
namespace {

double Act(Activation a, double x) {
  if (a == Activation::kSilu) return x / (1 + std::exp(-x));
  // Hendrycks & Gimpel, arXiv 1606.08415, section 2: the normal distribution's, and the tanh approximation.
  if (a == Activation::kGelu) return 0.5 * x * std::erfc(-x * M_SQRT1_2);
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

}  // namespace

absl::Status Glu(Stream& stream, const GluArgs& a) {
  const int64_t count = static_cast<int64_t>(a.tokens) * a.dim;
  for (int64_t i = 0; i < count; ++i) {
    const double act = Act(a.activation, a.gate[i]);
    a.y[i] = static_cast<float>(a.up == nullptr ? act : act * a.up[i]);
  }
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops::ref
