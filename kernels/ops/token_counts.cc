// The same for every backend whose memory is the host's. Tested by tests/kernels/token_counts_test.cc
#include "kernels/ops/token_counts.h"

#include <algorithm>

namespace shoal::ops {

absl::Status ClearCountsOnHost(Stream& stream, const ClearCountsArgs& a) {
  const int64_t stride = CountsStride(a.vocab);
  for (int i = 0; i < a.count; ++i) {
    if (a.places[i] >= 0) std::fill_n(a.counts + a.places[i] * stride, stride, uint16_t{0});
  }
  stream.Advance();
  return absl::OkStatus();
}

absl::Status CountTokensOnHost(Stream& stream, const CountTokensArgs& a) {
  const int64_t stride = CountsStride(a.vocab);
  for (int i = 0; i < a.count; ++i) {
    if (a.places[i] < 0 || a.tokens[i] < 0 || a.tokens[i] >= a.vocab) continue;
    uint16_t& at = a.counts[a.places[i] * stride + a.tokens[i]];
    if (a.in_prompt) {
      at |= kInPrompt;
    } else if ((at & kMostGenerated) != kMostGenerated) {
      ++at;
    }
  }
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops
