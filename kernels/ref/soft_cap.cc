// Tested by tests/kernels/row_ops_test.cc
#include "kernels/ops/soft_cap.h"

#include <cmath>

#include "kernels/ref/ref.h"

namespace shoal::ops::ref {

absl::Status SoftCap(Stream& stream, const SoftCapArgs& a) {
  for (int64_t i = 0; i < a.count; ++i) {
    const double x = static_cast<double>(a.scale) * a.y[i];
    a.y[i] = static_cast<float>(a.cap > 0 ? a.cap * std::tanh(x / a.cap) : x);
  }
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops::ref
