// What `shoal version` prints.
#pragma once

#include <string>

namespace shoal::cli {

// "shoal BUILD_ID", then what there is of CUDA: the plug-in at `cuda_plugin`, its version and its devices, or why there
// is none. A machine without is no error. Starts the driver when the plug-in is there.
std::string VersionText(const std::string& build_id, const std::string& cuda_plugin);

}  // namespace shoal::cli
