// Tested by tests/kernels/row_ops_test.cc
#include "kernels/ops/embed.h"

#include <algorithm>
#include <vector>

#include "kernels/ref/ref.h"

namespace shoal::ops::ref {

absl::Status Embed(Stream& stream, const EmbedArgs& a) {
  const int64_t dim = a.table.k;
  const size_t row_bytes = RowBytes(a.table.dtype, dim);
  for (int t = 0; t < a.tokens; ++t) {
    float* x = a.x + t * dim;
    const int64_t row = static_cast<int64_t>(a.ids[t]) - a.row_begin;
    if (row < 0 || row >= a.table.n) {
      std::fill(x, x + dim, 0.0f);
      continue;
    }
    DequantiseRow(a.table.dtype, static_cast<const char*>(a.table.data) + row_bytes * static_cast<size_t>(row), dim, x);
    const float row_scale = a.table.row_scale == nullptr ? 1.0f : a.table.row_scale[row];
    for (int64_t i = 0; i < dim; ++i) x[i] = x[i] * row_scale * a.scale;
    if (a.add == nullptr) continue;
    for (int64_t i = 0; i < dim; ++i) x[i] += a.add[i];
  }
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops::ref
