// Ranks as threads of one process: for tests, and for a single-process group.
#pragma once

#include <vector>

#include "worker/comm/collective.h"

namespace shoal::comm {

enum class LocalMode {
  kBuffered,
  // A send returns only after the matching receive, on the tensor and activation channels; the mailbox keeps its slots.
  // What would deadlock on a device library deadlocks here.
  kUnbuffered,
};

// The channel ends of all tp * pp ranks (rank = stage * tp + tensor index). abort[r] belongs to rank r.
std::vector<RankComm> MakeLocalGroup(const GroupShape& shape, LocalMode mode, std::span<const AbortFlag* const> abort);

}  // namespace shoal::comm
