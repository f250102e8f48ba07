// What can go wrong with a request, as clients see it: {"error": {"message", "type", "param", "code"}}. The table in
// errors.cc is the only place that knows statuses, types and codes.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "coordinator/http/message.h"

namespace shoal::http {

enum class ErrorKind : uint8_t {
  kBadRequest,  // not HTTP as we speak it
  kInvalidJson,
  kInvalidValue,  // wrong type, out of range, invalid UTF-8
  kMissingParameter,
  kUnsupportedParameter,  // known, with an effect that is not offered
  kContextLength,
  kInvalidApiKey,
  kForbidden,  // with a key, but not for this
  kModelNotFound,
  kNotFound,
  kMethodNotAllowed,
  kTimeout,
  kLengthRequired,
  kTooLarge,
  kHeadersTooLarge,
  kExpectationFailed,
  kIdempotencyReuse,  // a key that stands for another request
  kOverloaded,        // come back after retry_after_s
  kInternal,
  kPoisoned,     // it made ranks fail: clients are told not to send it again
  kUnavailable,  // no group yet, or no more; come back after retry_after_s
};

struct ApiError {
  ErrorKind kind = ErrorKind::kInternal;
  std::string message;
  std::string param;      // the field at fault, "messages[0].content"; empty: null
  int retry_after_s = 0;  // 0: the kind's default, if it has one
};

ApiError MakeError(ErrorKind kind, std::string message, std::string param = {});

struct ErrorInfo {
  int status;
  const char* type;
  const char* code;
  int default_retry_after_s;  // 0: no Retry-After header
};
const ErrorInfo& Info(ErrorKind kind);

// The JSON body, one line.
std::string ErrorBody(const ApiError& error);

// The whole answer: status, body, Retry-After and WWW-Authenticate where the kind has them.
Response ErrorResponse(const ApiError& error);

// The terminal error of a request, as the core words it.
ApiError FromStatus(const absl::Status& status, int retry_after_s);

}  // namespace shoal::http
