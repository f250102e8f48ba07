// Tested by tests/kernels/null_test.cc
#include "kernels/ops/sample.h"

#include <cstring>

#include "kernels/null/null.h"

namespace shoal::ops::null {

absl::Status Sample(Stream& stream, const SampleArgs& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    if (a.params[r].top_k < 0) {
      a.tokens[r] = -1;
      continue;
    }
    uint64_t hash = Mix(0, ToInteger(a.logits[r * a.stride]));
    if (a.params[r].temperature > 0) {
      uint32_t bits;
      std::memcpy(&bits, &a.params[r].uniform, sizeof bits);
      hash = Mix(hash, bits);
    }
    a.tokens[r] = static_cast<int32_t>(hash % static_cast<uint64_t>(a.vocab));
  }
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops::null
