#include "tools/cli/http_client.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

namespace shoal::cli {
namespace {

// Answers one connection with fixed bytes, in pieces, and keeps what it was sent.
class OneAnswer {
 public:
  explicit OneAnswer(std::vector<std::string> pieces) : listener_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address);
    listen(listener_, 1);
    socklen_t size = sizeof address;
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    url = "http://127.0.0.1:" + std::to_string(ntohs(address.sin_port));
    thread_ = std::thread([this, pieces = std::move(pieces)] { Answer(pieces); });
  }
  ~OneAnswer() {
    thread_.join();
    close(listener_);
  }

  std::string url;
  std::string request;

 private:
  void Answer(const std::vector<std::string>& pieces) {
    const int connection = accept(listener_, nullptr, nullptr);
    char buffer[4096];
    while (request.find("\r\n\r\n") == std::string::npos) {
      const ssize_t n = read(connection, buffer, sizeof buffer);
      if (n <= 0) break;
      request.append(buffer, static_cast<size_t>(n));
    }
    for (const std::string& piece : pieces) {
      if (send(connection, piece.data(), piece.size(), MSG_NOSIGNAL) < 0) break;
    }
    close(connection);
  }

  int listener_;
  std::thread thread_;
};

constexpr char kChunkedHead[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

TEST(HttpClient, CollectsABodyAndSendsWhatItShould) {
  HttpReply reply;
  std::string request;
  {
    OneAnswer server({"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhe", "llo"});
    reply = Http(server.url, "GET", "/v1/x", "", "key", nullptr).value();
    request = server.url.empty() ? "" : server.request;
  }
  EXPECT_EQ(reply.status, 404);
  EXPECT_EQ(reply.body, "hello");
  EXPECT_EQ(request.rfind("GET /v1/x HTTP/1.1\r\n", 0), 0u) << request;
  EXPECT_NE(request.find("Authorization: Bearer key\r\n"), std::string::npos) << request;
}

TEST(HttpClient, StreamsChunksAndStopsWhenTold) {
  OneAnswer server({kChunkedHead, "3\r\nabc\r\n", "3\r\ndef\r\n", "0\r\n\r\n"});
  std::string seen;
  const auto reply = Http(server.url, "GET", "/", "", "", [&](std::string_view data) {
    seen += data;
    return seen.size() < 6;
  });
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(seen, "abcdef");
}

TEST(HttpClient, ACutAnswerIsAnError) {
  OneAnswer server({kChunkedHead, "3\r\nabc\r\n"});
  EXPECT_EQ(Http(server.url, "GET", "/", "", "", nullptr).status().code(), absl::StatusCode::kDataLoss);
}

TEST(HttpClient, SaysWhatToDoWithoutAServer) {
  const auto reply = Http("http://127.0.0.1:1", "GET", "/", "", "", nullptr);
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(reply.status().message().find("shoal serve"), absl::string_view::npos);
  EXPECT_EQ(Http("https://x", "GET", "/", "", "", nullptr).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shoal::cli
