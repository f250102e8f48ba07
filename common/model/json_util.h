// What the readers of Hugging Face files share: JSON that is bounded, and typed look-ups that name the key in errors.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "boost/json/fwd.hpp"

namespace shoal::model {

// `what` names the document in errors. InvalidArgument: malformed (depth above 32 included), not an object, or an
// object in it has one key twice.
absl::StatusOr<boost::json::object> ParseObject(std::string_view text, const std::string& what);

// Null when the key is missing or its value is null.
const boost::json::value* FindValue(const boost::json::object& object, std::string_view key);

// Typed look-ups of a key that must be there. InvalidArgument names it. Int accepts numbers such as 8.0.
absl::StatusOr<int64_t> JsonInt(const boost::json::object& object, std::string_view key);
absl::StatusOr<double> JsonFloat(const boost::json::object& object, std::string_view key);
absl::StatusOr<std::string> JsonString(const boost::json::object& object, std::string_view key);

}  // namespace shoal::model
