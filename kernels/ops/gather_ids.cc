// The same for every backend whose memory is the host's. Tested by tests/kernels/row_ops_test.cc
#include "kernels/ops/gather_ids.h"

#include <algorithm>

namespace shoal::ops {

absl::Status GatherIdsOnHost(Stream& stream, const GatherIdsArgs& a) {
  for (int t = 0; t < a.tokens; ++t) a.ids[t] = a.sources[t] >= 0 ? a.sources[t] : a.last[~a.sources[t]];
  stream.Advance();
  return absl::OkStatus();
}

absl::Status ScatterIdsOnHost(Stream& stream, const ScatterIdsArgs& a) {
  for (int i = 0; i < a.count; ++i) {
    if (a.places[i] >= 0) a.last[a.places[i]] = std::max(a.tokens[i], 0);
  }
  stream.Advance();
  return absl::OkStatus();
}

}  // namespace shoal::ops
