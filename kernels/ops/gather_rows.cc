// For backends that need no other. Tested by tests/kernels/row_ops_test.cc
#include "kernels/ops/gather_rows.h"

#include <algorithm>

namespace shoal::ops {

absl::Status GatherRowsOnHost(Stream& stream, const GatherRowsArgs& a) {
  for (int i = 0; i < a.count; ++i) {
    const int64_t from = int64_t{a.rows[i]} * a.dim;
    std::copy_n(a.x.as<float>() + from, a.dim, a.y.as<float>() + int64_t{i} * a.dim);
  }
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops
