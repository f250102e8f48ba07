// The same for every backend whose memory is the host's. Tested by tests/kernels/row_ops_test.cc
#include "kernels/ops/pool.h"

#include <algorithm>
#include <cmath>

namespace shoal::ops {
namespace {

void Pool(const PoolArgs& a, int64_t s) {
  const float* const x = a.x.as<float>() + int64_t{a.first[s]} * a.dim;
  const int64_t rows = a.rows[s], last = (rows - 1) * a.dim;
  float* const y = a.y + s * a.dim;
  std::copy_n(x + (a.pooling == Pooling::kLast ? last : 0), a.dim, y);
  if (a.pooling == Pooling::kMean) {
    for (int64_t row = 1; row < rows; ++row) {
      for (int i = 0; i < a.dim; ++i) y[i] += x[row * a.dim + i];
    }
    for (int i = 0; i < a.dim; ++i) y[i] /= static_cast<float>(rows);
  }
  if (!a.normalise) return;
  float squares = 0;
  for (int i = 0; i < a.dim; ++i) squares += y[i] * y[i];
  if (squares == 0) return;
  const float length = std::sqrt(squares);
  for (int i = 0; i < a.dim; ++i) y[i] /= length;
}

}  // namespace

absl::Status PoolOnHost(Stream& stream, const PoolArgs& a) {
  ParallelFor(stream, a.count, [&](int s) { Pool(a, s); });
  return absl::OkStatus();
}

}  // namespace shoal::ops
