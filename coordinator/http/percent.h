// Percent-encoding in paths (RFC 3986 2.1).
#pragma once

#include <string>
#include <string_view>

namespace shoal::http {

// %41 becomes A; what is no valid escape stays as it is.
std::string PercentDecode(std::string_view text);

}  // namespace shoal::http
