// Which build this process is: processes of a cluster must agree on it.
#pragma once

#include <string>
#include <string_view>

namespace shoal {

inline constexpr std::string_view kVersion = "0.1.0";

// "0.1.0+" and the first 12 hex digits of the linker's build id: a hash of what was linked, so that the same sources
// built alike agree and anything else does not.
std::string BuildId();

}  // namespace shoal
