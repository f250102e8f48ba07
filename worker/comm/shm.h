// Ranks as processes of one host: shared memory segments, sequence flags on their own cache lines, a brief spin and
// then a futex, so that more ranks than cores still make progress.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "worker/comm/collective.h"
#include "worker/comm/wait_note.h"

namespace shoal::comm {

// Bytes of the one segment that holds all channels of a group. The agent that owns rank 0 creates and zeroes it.
size_t ShmSegmentBytes(const GroupShape& shape);

// `memory`: the segment, mapped in this process; it must stay mapped while the channels live. `generation` (the epoch)
// must be the same for all ranks: a rank of another generation is refused with FailedPrecondition. `note`: where waits
// are noted, or null.
absl::StatusOr<RankComm> MakeShmRank(const GroupShape& shape, int rank, uint64_t generation,
                                     std::span<std::byte> memory, const AbortFlag* abort, WaitNote* note = nullptr);

}  // namespace shoal::comm
