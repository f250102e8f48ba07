// One HTTP exchange as handlers see it. No Asio, no Beast. Everything here lives on the I/O thread of its connection.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/clock.h"

namespace shoal::http {

struct Request {
  std::string method;
  std::string path;  // without the query
  std::string query;
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string body;
  std::string request_id;  // the client's x-request-id, or one made here; the answer carries it
  TimeNs arrived = 0;      // the first byte was there (monotonic)

  // The first value of a header, by its lower-case name; empty when absent.
  std::string_view Header(std::string_view name) const;
  // How often it is there.
  size_t Count(std::string_view name) const;
};

using Headers = std::vector<std::pair<std::string, std::string>>;

struct Response {
  int status = 200;
  std::string content_type = "application/json";
  Headers headers;
  std::string body;
};

// Runs functions on one I/O thread, in the order of the calls. Thread-safe; may outlive that thread: then it drops
// them.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void Post(std::function<void()> fn) = 0;
};

// Where the answer to one request goes. Either Respond once, or BeginStream, any number of Writes, End. Calls after the
// client has gone do nothing. May outlive its connection.
class Responder {
 public:
  virtual ~Responder() = default;

  // Names the route for metrics: a bounded set, never what the client sent.
  virtual void SetRoute(std::string_view route) = 0;

  virtual void Respond(Response response) = 0;

  // 200 with the headers of an event stream.
  virtual void BeginStream() = 0;
  // One flush. False when the client has gone or reads too slowly (its connection is then closed); OnGone still comes.
  virtual bool Write(std::string_view bytes) = 0;
  virtual void End() = 0;
  // The answer is cut off where it stands: the client sees a broken transfer, not an end.
  virtual void Break() = 0;

  // `on_gone` is called once, later, on the I/O thread, if the client goes before the answer was complete. Owned until
  // the answer is complete.
  virtual void OnGone(std::function<void()> on_gone) = 0;

  // `on_idle` is called on the I/O thread whenever nothing has been sent for so long and the answer is not complete.
  virtual void OnIdle(DurationNs after, std::function<void()> on_idle) = 0;

  virtual std::shared_ptr<Executor> executor() const = 0;
};

using Handler = std::function<void(Request request, std::shared_ptr<Responder> responder)>;

// One finished exchange, for metrics and logs.
struct Exchange {
  std::string_view method;
  std::string_view route;  // "none" when no route was reached
  int status;              // 499 when the client went first
  DurationNs duration;
};

}  // namespace shoal::http
