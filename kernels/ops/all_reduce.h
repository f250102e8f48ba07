// The sum over the ranks of a stage in one operation, over memory that the devices of all of them reach. Bits as
// sum_ranks.h has them, in f32 in rank order, rounded once:
//   y[i] = ((x_0[i] + x_1[i]) + x_2[i]) + ...
// Each rank has an area, zeroed before its first operation and mapped by all. Every block of the kernel works on a part
// of the elements of its own, with the same block of the other ranks and no other, in rounds that it counts in device
// memory, so that a recorded operation goes on counting. In round n = 1, 2, ... block b
//   writes its part of x to slot n % 2 of its own area
//   release: flag [b][own rank] in the area of every other rank = n
//   acquire: waits until flag [b][r] of its own area is n or later, for every other rank r
//   reads slot n % 2 of every area, adds up, writes y
// A rank that has raised flag n has read everything of round n - 1; whoever has seen that of all may write the slot of
// n - 1 again, in round n + 1: two slots are enough, and nobody acknowledges.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/ops/acts.h"
#include "kernels/ops/stream.h"

namespace shoal::ops {

inline constexpr int kAllReduceMaxRanks = 8;
// Blocks that wait for other devices must all be there at once: far fewer than a device has room for.
inline constexpr int kAllReduceBlocks = 32;
inline constexpr size_t kAllReduceMaxBytes = size_t{1} << 20;  // of x

// An area. Flags of a block lie on a line of their own.
inline constexpr size_t kAllReduceFlagLine = 128;
inline constexpr size_t kAllReduceSlotsAt = kAllReduceBlocks * kAllReduceFlagLine;
inline constexpr size_t kAllReduceAreaBytes = kAllReduceSlotsAt + 2 * kAllReduceMaxBytes;
inline constexpr size_t kAllReducePartBytes = kAllReduceMaxBytes / kAllReduceBlocks;  // of a block in a slot

struct AllReduceArgs {
  ConstActs x;  // [count]
  Acts y;       // [count]; may be x
  int64_t count;
  int rank, ranks;
  std::byte* areas[kAllReduceMaxRanks];  // by rank, where this device sees them
  uint32_t* rounds;                      // [kAllReduceBlocks], of this rank alone; zeroed with its area
  // In pinned host memory. Once it is not 0 nobody is waited for: what is in y then is undefined, and the areas are of
  // no use any more.
  const uint32_t* abort;
};
// InvalidArgument: more ranks or bytes than above. All ranks call with the same count. Waits on the device.
using AllReduceFn = absl::Status (*)(Stream&, const AllReduceArgs&);

}  // namespace shoal::ops
