// A device fault to order, for tests of what follows from one.
#pragma once

#include "absl/status/status.h"
#include "kernels/ops/stream.h"

namespace shoal::cuda {

// Enqueues a kernel that writes where there is no memory. `stream` is a QueueStream.
absl::Status EnqueueIllegalAccess(ops::Stream& stream);

}  // namespace shoal::cuda
