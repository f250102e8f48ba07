// A blocking HTTP client that shows bytes as they are: for tests of framing, limits and disconnects.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace shoal::http {

struct RawResponse {
  int status = 0;                              // 0: nothing came
  std::map<std::string, std::string> headers;  // lower-case names
  std::string body;                            // chunks joined
  bool complete = false;                       // the end of the body was there, as framed
};

class RawClient {
 public:
  explicit RawClient(int port, int receive_buffer_bytes = 0);
  ~RawClient();
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  void Send(std::string_view bytes);
  // One whole response; later ones stay for the next call. Waits at most 20 s.
  RawResponse Read();
  // Headers only; the body stays.
  RawResponse ReadHead();
  // Everything up to the end of the connection.
  std::string ReadToEnd();
  // Until `mark` was received; everything so far, the mark included. Empty when the connection ended first.
  std::string ReadUntil(std::string_view mark);
  void Close();
  // True when the peer closed: the next read sees the end.
  bool AtEnd();

 private:
  bool Fill();  // false at the end

  int fd_ = -1;
  std::string buffered_;
};

// A request with a body, Content-Length and keep-alive.
std::string PostRequest(std::string_view path, std::string_view body, std::string_view more_headers = "");
std::string GetRequest(std::string_view path, std::string_view more_headers = "");

// A port that nobody listened on a moment ago.
int UnusedPort();

// One request on a connection of its own.
RawResponse Fetch(int port, std::string_view request);

}  // namespace shoal::http
