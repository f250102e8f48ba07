// Reads typed fields of a JSON object and keeps the first thing that is wrong. Internal to the parsers. null is absent.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "coordinator/http/errors.h"

namespace shoal::http {

// The document as an object: kInvalidJson with the place when it does not parse (also: invalid UTF-8, too deep), or is
// not an object.
std::optional<ApiError> ParseObject(std::string_view body, int max_depth, boost::json::object* object);

class Fields {
 public:
  // `prefix` goes before names in errors: "messages[0]." Both outlive this.
  Fields(const boost::json::object& object, std::string prefix) : object_(object), prefix_(std::move(prefix)) {}

  // Null when absent or null.
  const boost::json::value* Find(std::string_view name) const;

  // Each leaves `out` alone when the field is absent, and is an error when it is of another type or outside of
  // [low, high]. Numbers like 3.0 are integers. True when the field was there and fine.
  bool Integer(std::string_view name, int64_t low, int64_t high, int64_t* out);
  bool Number(std::string_view name, double low, double high, double* out);
  bool Bool(std::string_view name, bool* out);
  bool String(std::string_view name, std::string* out);

  // The value of `value` as an integer, if it is one.
  static std::optional<int64_t> AsInteger(const boost::json::value& value);

  void Fail(ErrorKind kind, std::string_view name, std::string message);
  bool ok() const { return !error_.has_value(); }
  const std::optional<ApiError>& error() const { return error_; }

 private:
  const boost::json::object& object_;
  const std::string prefix_;
  std::optional<ApiError> error_;
};

// "string", "integer", ... for messages.
std::string_view JsonTypeName(const boost::json::value& value);

}  // namespace shoal::http
