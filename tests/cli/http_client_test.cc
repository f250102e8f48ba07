#include "tools/cli/http_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

namespace shoal::cli {
namespace {

// Listens on a free port of the loopback; -1 where the host lacks it (IPv6).
class Listener {
 public:
  explicit Listener(int family = AF_INET) : fd_(socket(family, SOCK_STREAM, 0)) {
    sockaddr_storage storage{};
    storage.ss_family = static_cast<sa_family_t>(family);
    auto* const address = reinterpret_cast<sockaddr*>(&storage);
    auto* const v4 = reinterpret_cast<sockaddr_in*>(&storage);
    auto* const v6 = reinterpret_cast<sockaddr_in6*>(&storage);
    socklen_t size = family == AF_INET ? sizeof *v4 : sizeof *v6;
    if (family == AF_INET) v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (family == AF_INET6) v6->sin6_addr = in6addr_loopback;
    usable_ = fd_ >= 0 && bind(fd_, address, size) == 0 && listen(fd_, 1) == 0 && getsockname(fd_, address, &size) == 0;
    const std::string port = std::to_string(ntohs(family == AF_INET ? v4->sin_port : v6->sin6_port));
    url = (family == AF_INET ? "http://127.0.0.1:" : "http://[::1]:") + port;
  }
  ~Listener() { close(fd_); }
  bool usable() const { return usable_; }
  int fd() const { return fd_; }
  // Takes nobody from now on; who waits for a connection gets none.
  void Close() { shutdown(fd_, SHUT_RDWR); }

  std::string url;

 private:
  int fd_;
  bool usable_ = false;
};

// Answers one connection with fixed bytes, in pieces, and keeps what it was sent.
class OneAnswer : public Listener {
 public:
  explicit OneAnswer(std::vector<std::string> pieces, int family = AF_INET) : Listener(family) {
    if (usable()) thread_ = std::thread([this, pieces = std::move(pieces)] { Answer(pieces); });
  }
  ~OneAnswer() {
    Close();
    if (thread_.joinable()) thread_.join();
  }

  std::string request;

 private:
  void Answer(const std::vector<std::string>& pieces) {
    const int connection = accept(fd(), nullptr, nullptr);
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

  std::thread thread_;
};

constexpr char kChunkedHead[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

TEST(HttpClient, CollectsABodyAndSendsWhatItShould) {
  HttpReply reply;
  std::string request;
  {
    OneAnswer server({"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhe", "llo"});
    reply = Http({.url = server.url, .path = "/v1/x", .api_key = "key"}).value();
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
  const auto reply = Http({.url = server.url, .path = "/", .on_data = [&](std::string_view data) {
                             seen += data;
                             return seen.size() < 6;
                           }});
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(seen, "abcdef");
}

TEST(HttpClient, ACutAnswerIsAnError) {
  OneAnswer server({kChunkedHead, "3\r\nabc\r\n"});
  const absl::Status cut = Http({.url = server.url, .path = "/"}).status();
  EXPECT_EQ(cut.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(cut.message()), testing::HasSubstr("cut off: the server's end is gone"));
}

TEST(HttpClient, SaysWhatToDoWithoutAServer) {
  const auto reply = Http({.url = "http://127.0.0.1:1", .path = "/"});
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(reply.status().message().find("shoal serve"), absl::string_view::npos);
  EXPECT_EQ(Http({.url = "https://x", .path = "/"}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(HttpClient, AnIpv6AddressComesInBrackets) {
  OneAnswer server({"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"}, AF_INET6);
  if (!server.usable()) GTEST_SKIP() << "this host has no ::1";
  const auto reply = Http({.url = server.url, .path = "/"});
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->body, "ok");
  EXPECT_NE(server.request.find("Host: " + server.url.substr(7) + "\r\n"), std::string::npos) << server.request;
}

TEST(HttpClient, AServerThatIsStuckIsNotWaitedForForEver) {
  const Listener silent;  // takes connections, as a stopped process does, and says nothing
  EXPECT_EQ(Http({.url = silent.url, .path = "/", .timeout = 50 * kMillisecond}).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

// Half an answer, and then nothing until the client has gone.
class Stalled : public Listener {
 public:
  Stalled() : thread_([this] { Answer(); }) {}
  ~Stalled() {
    Close();
    thread_.join();
  }

 private:
  void Answer() {
    const int connection = accept(fd(), nullptr, nullptr);
    const std::string start = std::string(kChunkedHead) + "3\r\nabc\r\n";
    send(connection, start.data(), start.size(), MSG_NOSIGNAL);
    char buffer[4096];
    while (read(connection, buffer, sizeof buffer) > 0) continue;
    close(connection);
  }

  std::thread thread_;
};

TEST(HttpClient, AnAnswerThatStallsHasADeadline) {
  Stalled collected;
  EXPECT_EQ(Http({.url = collected.url, .path = "/", .timeout = 50 * kMillisecond}).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST(HttpClient, AnInterruptEndsAnAnswerThatIsUnderWay) {
  Stalled server;
  Interrupt interrupt;
  std::thread other;
  const auto reply = Http({.url = server.url,
                           .path = "/",
                           .on_data =
                               [&](std::string_view) {
                                 other = std::thread([&] { interrupt.Request(); });
                                 return true;  // and on to a read that nothing but the interrupt ends
                               },
                           .interrupt = &interrupt});
  other.join();
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kCancelled);
}

TEST(HttpClient, AnInterruptThatCameBeforeTheConnectionEndsTheCall) {
  const Listener silent;
  Interrupt interrupt;
  interrupt.Request();
  const auto ignore = [](std::string_view) { return true; };
  EXPECT_EQ(Http({.url = silent.url, .path = "/", .on_data = ignore, .interrupt = &interrupt}).status().code(),
            absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace shoal::cli
