// The public edge: listens, speaks HTTP/1.1, hands whole requests to a handler on one of its I/O threads. Knows nothing
// of models. Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/http/limits.h"
#include "coordinator/http/message.h"

namespace shoal::http {

struct HttpServerOptions {
  std::string host = "127.0.0.1";  // an address or a name
  int port = 0;                    // 0: a free one
  int threads = 1;                 // I/O threads; a connection stays on one
  Limits limits;
};

class HttpServer {
 public:
  // Listens when it returns. FailedPrecondition when the port is in use, InvalidArgument for a host that is none of
  // ours. `handler` is called on an I/O thread and must not block. `on_exchange` likewise, once per exchange; may be
  // null.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const HttpServerOptions& options, Handler handler,
                                                           std::function<void(const Exchange&)> on_exchange);
  // Breaks what is still open; no handler runs afterwards.
  virtual ~HttpServer() = default;

  virtual int port() const = 0;
  // Of an I/O thread, for work without a connection.
  virtual std::shared_ptr<Executor> executor() const = 0;
  // From now on every answer is the last of its connection. Thread-safe.
  virtual void Drain() = 0;
  // Requests that were read and whose answers are not yet written to the last byte.
  virtual int open_exchanges() const = 0;
};

}  // namespace shoal::http
