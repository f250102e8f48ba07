// The same for every backend whose memory is the host's. Tested by tests/kernels/row_ops_test.cc
#include "kernels/ops/place_columns.h"

#include <algorithm>

namespace shoal::ops {

absl::Status PlaceColumnsOnHost(Stream& stream, const PlaceColumnsArgs& a) {
  for (int row = 0; row < a.rows; ++row) {
    std::copy_n(a.x + static_cast<int64_t>(row) * a.width, a.width, a.y + row * a.stride);
  }
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops
