// The token ids of a batch: literal ones, and those that were sampled before and are known on the device alone.
//   ids[t] = sources[t] >= 0 ? sources[t] : last[~sources[t]]
// and how the sampled ones get there:
//   last[places[i]] = max(tokens[i], 0) for each i with places[i] >= 0
// A token of -1 (a row without a finite logit) counts as 0: its sequence will be ended, and what is computed with it is
// thrown away.
#pragma once

#include "absl/status/status.h"
#include "kernels/ops/stream.h"

namespace shoal::ops {

struct GatherIdsArgs {
  const int32_t* sources;  // [tokens]
  const int32_t* last;     // [places]
  int32_t* ids;            // [tokens]; may be sources
  int tokens;
};
using GatherIdsFn = absl::Status (*)(Stream&, const GatherIdsArgs&);

struct ScatterIdsArgs {
  const int32_t* tokens;  // [count]
  const int32_t* places;  // [count], distinct but for -1
  int32_t* last;          // [places]
  int count;
};
using ScatterIdsFn = absl::Status (*)(Stream&, const ScatterIdsArgs&);

// Of every backend whose memory is the host's.
absl::Status GatherIdsOnHost(Stream& stream, const GatherIdsArgs& args);
absl::Status ScatterIdsOnHost(Stream& stream, const ScatterIdsArgs& args);

}  // namespace shoal::ops
