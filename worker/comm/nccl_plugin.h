// NCCL, as the CUDA plug-in brings it.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "worker/comm/nccl_api.h"

namespace shoal::comm {

// Of the plug-in at `path`, which device::OpenCudaPlugin has opened, and so has found to be of this build; for good.
// Whether there is an NCCL is told by NcclApi::Version(). FailedPrecondition: nobody has opened that plug-in.
absl::StatusOr<NcclApi*> NcclOfPlugin(const std::string& path);

}  // namespace shoal::comm
