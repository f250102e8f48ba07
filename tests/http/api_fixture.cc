#include "tests/http/api_fixture.h"

#include <boost/json/serialize.hpp>
#include <cstdlib>

namespace shoal::http {

std::string At(const boost::json::value& value, const std::string& path) {
  const boost::json::value* at = &value;
  size_t begin = 0;
  while (begin <= path.size()) {
    size_t end = path.find('.', begin);
    if (end == std::string::npos) end = path.size();
    const std::string key = path.substr(begin, end - begin);
    if (const auto* object = at->if_object()) {
      at = object->if_contains(key);
    } else if (const auto* array = at->if_array()) {
      const size_t index = std::strtoull(key.c_str(), nullptr, 10);
      at = index < array->size() ? &(*array)[index] : nullptr;
    } else {
      at = nullptr;
    }
    if (at == nullptr) return "absent";
    begin = end + 1;
  }
  return boost::json::serialize(*at);
}

}  // namespace shoal::http
