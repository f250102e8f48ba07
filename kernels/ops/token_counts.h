// How often a sequence has each id, for penalties (sample.h). A table has a row for each place of a sequence:
//   counts[place, id] = (kInPrompt if the prompt has it) + how often it was generated, at most kMostGenerated
// clear_counts makes a row zeros. count_tokens counts tokens into rows:
//   counts[places[i], tokens[i]] |= kInPrompt                   in_prompt
//   counts[places[i], tokens[i]] += 1 up to kMostGenerated      otherwise
// A sequence that starts, anew or after a preemption, has its row cleared, then its prompt counted, then what it had
// generated; from then on each sampled token is counted as it comes. All sums are of integers: no order matters.
#pragma once

#include "absl/status/status.h"
#include "common/base/host_device.h"
#include "kernels/ops/stream.h"

namespace shoal::ops {

inline constexpr uint16_t kInPrompt = 0x8000, kMostGenerated = 0x7fff;

// Counts from one row to the next. Rows begin on borders of 16 bytes, as the table does; what is behind `vocab` stays
// unused.
SHOAL_HD constexpr int64_t CountsStride(int vocab) { return (int64_t{vocab} + 7) / 8 * 8; }

struct ClearCountsArgs {
  uint16_t* counts;       // [places, CountsStride(vocab)]
  const int32_t* places;  // [count]; -1: nothing to do
  int count;
  int vocab;
};
using ClearCountsFn = absl::Status (*)(Stream&, const ClearCountsArgs&);

struct CountTokensArgs {
  const int32_t* tokens;  // [count]; outside [0, vocab) (padding, no token): skipped
  const int32_t* places;  // [count]; -1: skipped; may repeat, as tokens may
  uint16_t* counts;       // [places, CountsStride(vocab)]
  int count;
  int vocab;
  bool in_prompt;
};
using CountTokensFn = absl::Status (*)(Stream&, const CountTokensArgs&);

// Of every backend whose memory is the host's.
absl::Status ClearCountsOnHost(Stream& stream, const ClearCountsArgs& args);
absl::Status CountTokensOnHost(Stream& stream, const CountTokensArgs& args);

}  // namespace shoal::ops
