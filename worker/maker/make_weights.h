// A rank's weights in memory of a device that outlives the process: read, packed and sent there at the same time.
#pragma once

#include <functional>

#include "absl/status/statusor.h"
#include "kernels/ops/accelerator.h"
#include "worker/maker/messages.h"

namespace shoal::maker {

// What Request::kWeights asks for. `progress` is told the bytes read several times a second, on this thread; what it
// answers but OK ends the work. The answer's descriptor is the caller's. Errors: those of opening and reading the
// checkpoint, the device's, and FailedPrecondition when the region would not have the size that the agent expects.
absl::StatusOr<Answer> MakeWeights(const Request& request, ops::Accelerator& accelerator,
                                   const std::function<absl::Status(int64_t bytes_read)>& progress);

}  // namespace shoal::maker
