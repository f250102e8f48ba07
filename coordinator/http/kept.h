// Requests and answers that outlive the process, as the bytes that the journal keeps. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "coordinator/http/message.h"

namespace shoal::http {

// What an answer must have again when it is made a second time.
struct FixedParts {
  uint64_t seed = 0;    // when the request brings none
  std::string id;       // of the answer, without "chatcmpl-" or "cmpl-"
  int64_t created = 0;  // seconds since 1970
};

struct KeptRequest {
  bool chat = false;
  FixedParts fixed;
  std::string body;
};

std::string EncodeKept(const KeptRequest& request);
std::string EncodeKept(const Response& response);
// Nothing for bytes that the other direction did not make.
std::optional<KeptRequest> DecodeKeptRequest(std::string_view bytes);
std::optional<Response> DecodeKeptResponse(std::string_view bytes);

}  // namespace shoal::http
