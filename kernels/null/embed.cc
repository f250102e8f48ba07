// Tested by tests/kernels/null_test.cc
#include "kernels/ops/embed.h"

#include <algorithm>

#include "kernels/null/null.h"

namespace shoal::ops::null {

absl::Status Embed(Stream& stream, const EmbedArgs& a) {
  for (int64_t t = 0; t < a.tokens; ++t) {
    float* x = a.x + t * a.table.k;
    std::fill(x, x + a.table.k, 0.0f);
    const int64_t row = static_cast<int64_t>(a.ids[t]) - a.row_begin;
    if (row >= 0 && row < a.table.n) x[0] = static_cast<float>(a.ids[t]);
  }
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops::null
