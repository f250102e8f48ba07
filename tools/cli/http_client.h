// A plain HTTP/1.1 client for the verbs that talk to a running server. Blocking; one connection per call.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/base/clock.h"

namespace shoal::cli {

// Ends a call from a signal handler or from another thread, whenever it is asked to: before the call, while it waits,
// or while its answer streams. One call at a time; the last word stays until Reset.
class Interrupt {
 public:
  void Request();  // async-signal-safe
  bool requested() const { return requested_.load(); }
  void Reset() { requested_.store(false); }

  // For the call: the connection that a request shuts down; -1: none. Ask requested() after it.
  void Watch(int fd) { fd_.store(fd); }

 private:
  std::atomic<bool> requested_{false};
  std::atomic<int> fd_{-1};
  static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);
};

struct HttpCall {
  std::string url;  // "http://host:port", "http://[::1]:port"; https is refused by name
  std::string method = "GET";
  std::string path = {};
  std::string body = {};
  std::string api_key = {};
  // Sees the body of a 200 as it comes, and nothing is collected then; false ends the connection, which the server
  // takes as a disconnect. May be empty.
  std::function<bool(std::string_view)> on_data = {};
  Interrupt* interrupt = nullptr;  // may be null
  // For all of it; with on_data only until the request is sent: an answer that is watched may take any time.
  DurationNs timeout = 10 * kSecond;
};

struct HttpReply {
  int status = 0;
  std::string body;
};

// Unavailable: no server there. DeadlineExceeded: one that does not answer. DataLoss: the answer was cut off.
// Cancelled: interrupted.
absl::StatusOr<HttpReply> Http(const HttpCall& call);

}  // namespace shoal::cli
