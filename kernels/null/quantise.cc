// Tested by tests/kernels/null_test.cc
#include "kernels/ops/quantise.h"

#include "kernels/null/null.h"

namespace shoal::ops::null {

absl::Status Quantise(Stream& stream, const QuantiseArgs& a) {
  const int64_t blocks = static_cast<int64_t>(a.tokens) * (a.k / kQuantBlock);
  for (int64_t b = 0; b < blocks; ++b) a.out.scale[b] = a.x[b * kQuantBlock];
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops::null
