#include "coordinator/http/errors.h"

#include "common/base/check.h"
#include "coordinator/http/json_writer.h"

namespace shoal::http {
namespace {

constexpr char kInvalidRequestError[] = "invalid_request_error";

// Codes and types are OpenAI's where it has one for the case.
constexpr struct {
  ErrorKind kind;
  ErrorInfo info;
} kTable[] = {
    {ErrorKind::kBadRequest, {400, kInvalidRequestError, "bad_request", 0}},
    {ErrorKind::kInvalidJson, {400, kInvalidRequestError, "invalid_json", 0}},
    {ErrorKind::kInvalidValue, {400, kInvalidRequestError, "invalid_value", 0}},
    {ErrorKind::kMissingParameter, {400, kInvalidRequestError, "missing_required_parameter", 0}},
    {ErrorKind::kUnsupportedParameter, {400, kInvalidRequestError, "unsupported_parameter", 0}},
    {ErrorKind::kContextLength, {400, kInvalidRequestError, "context_length_exceeded", 0}},
    {ErrorKind::kInvalidApiKey, {401, kInvalidRequestError, "invalid_api_key", 0}},
    {ErrorKind::kForbidden, {403, kInvalidRequestError, "insufficient_permissions", 0}},
    {ErrorKind::kModelNotFound, {404, kInvalidRequestError, "model_not_found", 0}},
    {ErrorKind::kNotFound, {404, kInvalidRequestError, "not_found", 0}},
    {ErrorKind::kMethodNotAllowed, {405, kInvalidRequestError, "method_not_allowed", 0}},
    {ErrorKind::kTimeout, {408, kInvalidRequestError, "request_timeout", 0}},
    {ErrorKind::kLengthRequired, {411, kInvalidRequestError, "length_required", 0}},
    {ErrorKind::kTooLarge, {413, kInvalidRequestError, "request_too_large", 0}},
    {ErrorKind::kExpectationFailed, {417, kInvalidRequestError, "expectation_failed", 0}},
    {ErrorKind::kIdempotencyReuse, {422, kInvalidRequestError, "idempotency_key_reused", 0}},
    {ErrorKind::kHeadersTooLarge, {431, kInvalidRequestError, "headers_too_large", 0}},
    {ErrorKind::kOverloaded, {429, "rate_limit_error", "rate_limit_exceeded", 1}},
    {ErrorKind::kInternal, {500, "server_error", "internal_error", 0}},
    {ErrorKind::kPoisoned, {500, "server_error", "poisoned", 0}},
    {ErrorKind::kUnavailable, {503, "server_error", "service_unavailable", 2}},
};

}  // namespace

const ErrorInfo& Info(ErrorKind kind) {
  for (const auto& row : kTable) {
    if (row.kind == kind) return row.info;
  }
  SHOAL_CHECK(false && "an ErrorKind without a row");
  __builtin_unreachable();
}

ApiError MakeError(ErrorKind kind, std::string message, std::string param) {
  ApiError error;
  error.kind = kind;
  error.message = std::move(message);
  error.param = std::move(param);
  return error;
}

std::string ErrorBody(const ApiError& error) {
  const ErrorInfo& info = Info(error.kind);
  std::string body = R"({"error":{"message":)";
  AppendJsonString(error.message, &body);
  body += R"(,"type":)";
  AppendJsonString(info.type, &body);
  body += R"(,"param":)";
  if (error.param.empty()) {
    body += "null";
  } else {
    AppendJsonString(error.param, &body);
  }
  body += R"(,"code":)";
  AppendJsonString(info.code, &body);
  body += "}}";
  return body;
}

Response ErrorResponse(const ApiError& error) {
  const ErrorInfo& info = Info(error.kind);
  Response response;
  response.status = info.status;
  response.body = ErrorBody(error);
  if (info.default_retry_after_s > 0) {
    const int seconds = error.retry_after_s > 0 ? error.retry_after_s : info.default_retry_after_s;
    response.headers.emplace_back("Retry-After", std::to_string(seconds));
  }
  // OpenAI's clients send whatever got a 500 again, twice, unless told otherwise.
  if (error.kind == ErrorKind::kPoisoned) response.headers.emplace_back("x-should-retry", "false");
  if (error.kind == ErrorKind::kInvalidApiKey) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

ApiError FromStatus(const absl::Status& status, int retry_after_s) {
  ApiError error;
  error.message = std::string(status.message());
  error.retry_after_s = retry_after_s;
  switch (status.code()) {
    case absl::StatusCode::kResourceExhausted:
      error.kind = ErrorKind::kOverloaded;
      break;
    case absl::StatusCode::kUnavailable:
      error.kind = ErrorKind::kUnavailable;
      break;
    case absl::StatusCode::kFailedPrecondition:
      error.kind = ErrorKind::kPoisoned;
      break;
    case absl::StatusCode::kInvalidArgument:
      error.kind = ErrorKind::kInvalidValue;
      break;
    default:
      error.kind = ErrorKind::kInternal;
      break;
  }
  if (error.message.empty()) error.message = "the request failed";
  return error;
}

}  // namespace shoal::http
