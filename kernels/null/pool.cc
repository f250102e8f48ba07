// Tested by tests/kernels/null_test.cc
#include "kernels/ops/pool.h"

#include <algorithm>

#include "kernels/null/null.h"

namespace shoal::ops::null {

absl::Status Pool(Stream& stream, const PoolArgs& a) {
  for (int64_t s = 0; s < a.count; ++s) {
    std::fill_n(a.y + s * a.dim, a.dim, 0.0f);
    a.y[s * a.dim] = a.x.as<float>()[(int64_t{a.first[s]} + a.rows[s] - 1) * a.dim];
  }
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops::null
