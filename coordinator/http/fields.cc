#include "coordinator/http/fields.h"

#include <boost/json/parse.hpp>
#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace shoal::http {
namespace json = boost::json;

std::optional<ApiError> ParseObject(std::string_view body, int max_depth, json::object* object) {
  json::parse_options options;
  options.max_depth = static_cast<size_t>(max_depth);
  boost::system::error_code ec;
  json::value value = json::parse(json::string_view(body.data(), body.size()), ec, {}, options);
  ApiError error;
  error.kind = ErrorKind::kInvalidJson;
  if (ec == json::error::too_deep) {
    error.message = absl::StrCat("the body nests deeper than the limit of ", max_depth, " levels");
    return error;
  }
  if (ec) {
    error.message = "the body is not valid JSON: " + ec.message();
    return error;
  }
  if (!value.is_object()) {
    error.message = absl::StrCat("the body must be a JSON object, not ", std::string(JsonTypeName(value)));
    return error;
  }
  *object = std::move(value.get_object());
  return std::nullopt;
}

std::string_view JsonTypeName(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      return "null";
    case json::kind::bool_:
      return "a boolean";
    case json::kind::int64:
    case json::kind::uint64:
      return "an integer";
    case json::kind::double_:
      return "a number";
    case json::kind::string:
      return "a string";
    case json::kind::array:
      return "an array";
    case json::kind::object:
      return "an object";
  }
  return "a value";
}

namespace {

// The shortest text that reads back as the same number: bounds in messages look as they are written in the code.
std::string NumberText(double value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value);
  return std::string(text, end.ptr);
}

}  // namespace

const json::value* Fields::Find(std::string_view name) const {
  const auto* value = object_.if_contains(json::string_view(name.data(), name.size()));
  return value == nullptr || value->is_null() ? nullptr : value;
}

void Fields::Fail(ErrorKind kind, std::string_view name, std::string message) {
  if (error_.has_value()) return;
  error_.emplace();
  error_->kind = kind;
  error_->param = absl::StrCat(prefix_, std::string(name));
  error_->message = std::move(message);
}

std::optional<int64_t> Fields::AsInteger(const json::value& value) {
  if (const int64_t* i = value.if_int64()) return *i;
  if (const double* d = value.if_double()) {
    // 2^53: up to there every integer is a double
    if (std::abs(*d) <= 9007199254740992.0 && std::trunc(*d) == *d) return static_cast<int64_t>(*d);
  }
  return std::nullopt;
}

bool Fields::Integer(std::string_view name, int64_t low, int64_t high, int64_t* out) {
  const json::value* value = Find(name);
  if (value == nullptr) return false;
  const std::optional<int64_t> integer = AsInteger(*value);
  const std::string shown = prefix_ + std::string(name);
  if (!integer.has_value() && !value->is_uint64()) {
    Fail(ErrorKind::kInvalidValue, name,
         absl::StrCat("'", shown, "' must be an integer, not ", std::string(JsonTypeName(*value))));
    return false;
  }
  if (!integer.has_value() || *integer < low || *integer > high) {
    Fail(ErrorKind::kInvalidValue, name, absl::StrCat("'", shown, "' must be between ", low, " and ", high));
    return false;
  }
  *out = *integer;
  return true;
}

bool Fields::Number(std::string_view name, double low, double high, double* out) {
  const json::value* value = Find(name);
  if (value == nullptr) return false;
  const std::string shown = prefix_ + std::string(name);
  if (!value->is_number()) {
    Fail(ErrorKind::kInvalidValue, name,
         absl::StrCat("'", shown, "' must be a number, not ", std::string(JsonTypeName(*value))));
    return false;
  }
  const double number = value->to_number<double>();
  if (!(number >= low && number <= high)) {
    Fail(ErrorKind::kInvalidValue, name,
         absl::StrCat("'", shown, "' must be between ", NumberText(low), " and ", NumberText(high)));
    return false;
  }
  *out = number;
  return true;
}

bool Fields::Bool(std::string_view name, bool* out) {
  const json::value* value = Find(name);
  if (value == nullptr) return false;
  if (!value->is_bool()) {
    Fail(ErrorKind::kInvalidValue, name,
         absl::StrCat("'", prefix_, std::string(name), "' must be a boolean, not ", std::string(JsonTypeName(*value))));
    return false;
  }
  *out = value->get_bool();
  return true;
}

bool Fields::String(std::string_view name, std::string* out) {
  const json::value* value = Find(name);
  if (value == nullptr) return false;
  if (!value->is_string()) {
    Fail(ErrorKind::kInvalidValue, name,
         absl::StrCat("'", prefix_, std::string(name), "' must be a string, not ", std::string(JsonTypeName(*value))));
    return false;
  }
  out->assign(value->get_string().data(), value->get_string().size());
  return true;
}

}  // namespace shoal::http
