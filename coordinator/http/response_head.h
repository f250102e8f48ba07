// The bytes before and around bodies. Every answer carries the request id and the CORS headers.
#pragma once

#include <string>
#include <string_view>

#include "coordinator/http/message.h"

namespace shoal::http {

// Status line and headers, with Content-Length of response.body.
std::string ResponseHead(const Response& response, std::string_view request_id, bool keep_alive);

// Of an event stream. Without chunks (HTTP/1.0) the end of the connection is the end of the stream.
std::string StreamHead(std::string_view request_id, bool chunked, bool keep_alive);

// One chunk of a chunked body. `bytes` is not empty.
std::string Chunk(std::string_view bytes);

// What the client sent when it is 1..limit printable ASCII characters; else 32 random hexadecimal digits.
std::string UsableRequestId(std::string_view from_client, size_t limit);

// `bytes` random bytes of the system as hexadecimal digits.
std::string RandomHex(size_t bytes);

}  // namespace shoal::http
