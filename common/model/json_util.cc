#include "common/model/json_util.h"

#include <cmath>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "boost/json.hpp"
#include "boost/json/basic_parser_impl.hpp"
#include "common/base/status_macros.h"

namespace shoal::model {
namespace {

namespace json = boost::json;

// Boost.JSON keeps the last of equal keys; in a header that describes byte ranges that is a lie to be refused. This
// handler sees every key and stores nothing but the keys of the objects that are open.
struct DuplicateFinder {
  static constexpr size_t max_object_size = static_cast<size_t>(-1), max_array_size = static_cast<size_t>(-1);
  static constexpr size_t max_key_size = static_cast<size_t>(-1), max_string_size = static_cast<size_t>(-1);

  std::vector<absl::flat_hash_set<std::string>> open;
  std::string key, duplicate;

  bool on_document_begin(json::error_code&) { return true; }
  bool on_document_end(json::error_code&) { return true; }
  bool on_object_begin(json::error_code&) {
    open.emplace_back();
    return true;
  }
  bool on_object_end(size_t, json::error_code&) {
    open.pop_back();
    return true;
  }
  bool on_array_begin(json::error_code&) { return true; }
  bool on_array_end(size_t, json::error_code&) { return true; }
  bool on_key_part(json::string_view s, size_t, json::error_code&) {
    key.append(s.data(), s.size());
    return true;
  }
  bool on_key(json::string_view s, size_t, json::error_code&) {
    key.append(s.data(), s.size());
    if (!open.back().insert(key).second) duplicate = key;
    key.clear();
    return true;
  }
  bool on_string_part(json::string_view, size_t, json::error_code&) { return true; }
  bool on_string(json::string_view, size_t, json::error_code&) { return true; }
  bool on_number_part(json::string_view, json::error_code&) { return true; }
  bool on_int64(int64_t, json::string_view, json::error_code&) { return true; }
  bool on_uint64(uint64_t, json::string_view, json::error_code&) { return true; }
  bool on_double(double, json::string_view, json::error_code&) { return true; }
  bool on_bool(bool, json::error_code&) { return true; }
  bool on_null(json::error_code&) { return true; }
  bool on_comment_part(json::string_view, json::error_code&) { return true; }
  bool on_comment(json::string_view, json::error_code&) { return true; }
};

absl::Status Wrong(std::string_view key, const char* wanted) {
  return absl::InvalidArgumentError(absl::StrCat("\"", std::string(key), "\" is missing or not ", wanted));
}

json::string_view Boost(std::string_view s) { return {s.data(), s.size()}; }

}  // namespace

absl::StatusOr<json::object> ParseObject(std::string_view text, const std::string& what) {
  json::error_code error;
  json::basic_parser<DuplicateFinder> scan(json::parse_options{});
  const size_t scanned = scan.write_some(false, text.data(), text.size(), error);
  if (!error && scan.handler().duplicate.empty()) {
    json::value value = json::parse(Boost(text), error);
    if (!error && value.is_object()) return std::move(value.get_object());
    if (!error) return absl::InvalidArgumentError(absl::StrCat(what, " is not a JSON object"));
  }
  if (!error) {
    return absl::InvalidArgumentError(absl::StrCat(what, " has the key \"", scan.handler().duplicate, "\" twice"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(what, " is malformed JSON near byte ", scanned, ": ", error.message()));
}

const json::value* FindValue(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(Boost(key));
  return value == nullptr || value->is_null() ? nullptr : value;
}

absl::StatusOr<int64_t> JsonInt(const json::object& object, std::string_view key) {
  const json::value* value = FindValue(object, key);
  if (value == nullptr) return Wrong(key, "an integer");
  if (value->is_int64()) return value->get_int64();
  // 2^53: beyond it a double no longer says which integer was meant.
  if (const double* d = value->if_double(); d != nullptr && std::trunc(*d) == *d && std::abs(*d) <= 0x1p53) {
    return static_cast<int64_t>(*d);
  }
  return Wrong(key, "an integer");
}

absl::StatusOr<double> JsonFloat(const json::object& object, std::string_view key) {
  const json::value* value = FindValue(object, key);
  if (value == nullptr || !value->is_number()) return Wrong(key, "a number");
  return value->is_double()  ? value->get_double()
         : value->is_int64() ? static_cast<double>(value->get_int64())
                             : static_cast<double>(value->get_uint64());
}

absl::StatusOr<std::string> JsonString(const json::object& object, std::string_view key) {
  const json::value* value = FindValue(object, key);
  if (value == nullptr || !value->is_string()) return Wrong(key, "a string");
  return std::string(value->get_string().data(), value->get_string().size());
}

}  // namespace shoal::model
