// Which build of the program this plug-in belongs to.
#pragma once

namespace shoal::cuda {

// BuildId() of the `shoal` binary beside which the plug-in was linked. tools/dev/write_build_id makes its definition
// after that binary is linked, so that nothing else has to wait for it or is compiled again when it changes.
extern const char kBuildId[];

}  // namespace shoal::cuda
