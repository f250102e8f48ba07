// A plain HTTP/1.1 client for the verbs that talk to a running server. Blocking; one connection per call.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace shoal::cli {

struct HttpReply {
  int status = 0;
  std::string body;
};

// `url`: "http://host:port"; https is refused by name. `on_data` (may be empty) sees the body as it comes and then
// nothing is collected; it returns false to end the connection, which the server takes as a disconnect. `socket` (may
// be null) holds the connection's descriptor meanwhile, -1 otherwise: a signal handler may shut it down to end the
// call. Unavailable: no server there. DataLoss: the answer was cut off.
absl::StatusOr<HttpReply> Http(const std::string& url, const std::string& method, const std::string& path,
                               const std::string& body, const std::string& api_key,
                               const std::function<bool(std::string_view)>& on_data,
                               std::atomic<int>* socket = nullptr);

}  // namespace shoal::cli
