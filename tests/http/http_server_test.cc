// The transport over real sockets: framing, limits, refusals, keep-alive, disconnects, slow readers.
#include "coordinator/http/http_server.h"

#include <gtest/gtest.h>

#include <deque>
#include <future>

#include "common/base/mutex.h"
#include "tests/http/raw_client.h"

namespace shoal::http {
namespace {

Response Body(std::string text) {
  Response response;
  response.body = std::move(text);
  return response;
}

// Hands requests to the test, which answers them on the I/O thread through Do.
class HttpServerTest : public ::testing::Test {
 protected:
  void Start(Limits limits = {}) {
    HttpServerOptions options;
    options.limits = limits;
    auto server = HttpServer::Start(
        options, [this](Request request, std::shared_ptr<Responder> responder) { Take(request, responder); },
        [this](const Exchange& exchange) {
          MutexLock lock(mutex_);
          statuses_.push_back(exchange.status);
          changed_.NotifyAll();
        });
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(*server);
  }

  void Take(const Request& request, const std::shared_ptr<Responder>& responder) {
    if (request.path == "/echo") {
      Response response;
      response.body = request.method + " " + request.query + " " + request.body;
      return responder->Respond(response);
    }
    responder->OnGone([this] {
      MutexLock lock(mutex_);
      ++gone_;
      changed_.NotifyAll();
    });
    MutexLock lock(mutex_);
    held_.push_back(responder);
    changed_.NotifyAll();
  }

  std::shared_ptr<Responder> NextHeld() {
    MutexLock lock(mutex_);
    while (held_.empty()) changed_.Wait(mutex_);
    auto responder = held_.front();
    held_.pop_front();
    return responder;
  }
  void AwaitGone(int count) {
    MutexLock lock(mutex_);
    while (gone_ < count) changed_.Wait(mutex_);
  }
  std::vector<int> AwaitStatuses(size_t count) {
    MutexLock lock(mutex_);
    while (statuses_.size() < count) changed_.Wait(mutex_);
    return statuses_;
  }
  // Runs `fn` on the responder's I/O thread and waits for it.
  static void Do(const std::shared_ptr<Responder>& responder, const std::function<void()>& fn) {
    std::promise<void> done;
    responder->executor()->Post([&] {
      fn();
      done.set_value();
    });
    done.get_future().wait();
  }
  int port() const { return server_->port(); }

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::shared_ptr<Responder>> held_;
  std::vector<int> statuses_;
  int gone_ = 0;
  std::unique_ptr<HttpServer> server_;  // last: its threads use the others
};

TEST_F(HttpServerTest, AnswersAndKeepsTheConnection) {
  Start();
  RawClient client(port());
  for (int i = 0; i < 3; ++i) {
    client.Send(
        PostRequest("/echo?a=b", "body" + std::to_string(i), "X-Request-Id: mine-" + std::to_string(i) + "\r\n"));
    const RawResponse response = client.Read();
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.body, "POST a=b body" + std::to_string(i));
    EXPECT_EQ(response.headers.at("x-request-id"), "mine-" + std::to_string(i));
    EXPECT_EQ(response.headers.at("access-control-allow-origin"), "*");
  }
}

TEST_F(HttpServerTest, MakesARequestIdWhenTheClientsIsNone) {
  Start();
  const RawResponse without = Fetch(port(), GetRequest("/echo"));
  const RawResponse with_space = Fetch(port(), GetRequest("/echo", "X-Request-Id: a b\r\n"));
  EXPECT_EQ(without.headers.at("x-request-id").size(), 32u);
  EXPECT_EQ(with_space.headers.at("x-request-id").size(), 32u);
  EXPECT_NE(without.headers.at("x-request-id"), with_space.headers.at("x-request-id"));
}

TEST_F(HttpServerTest, PipelinedRequestsAreAnsweredInOrder) {
  Start();
  RawClient client(port());
  std::string all;
  for (int i = 0; i < 50; ++i) all += PostRequest("/echo", std::to_string(i));
  client.Send(all);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(client.Read().body, "POST  " + std::to_string(i));
}

TEST_F(HttpServerTest, APipelinedRequestWaitsForTheOneBefore) {
  Start();
  RawClient client(port());
  client.Send(GetRequest("/hold") + PostRequest("/echo", "second"));
  auto responder = NextHeld();
  Do(responder, [&] { responder->Respond(Body("first")); });
  EXPECT_EQ(client.Read().body, "first");
  EXPECT_EQ(client.Read().body, "POST  second");
}

TEST_F(HttpServerTest, WhoSendsTooMuchBehindAnUnansweredRequestIsGone) {
  Limits limits;
  limits.pipelined_bytes = 1000;
  Start(limits);
  RawClient patient(port());
  const std::string ahead = PostRequest("/echo", std::string(700, 'x'));
  ASSERT_LE(ahead.size(), limits.pipelined_bytes);
  patient.Send(GetRequest("/hold"));
  auto kept = NextHeld();
  patient.Send(ahead);
  RawClient client(port());
  client.Send(GetRequest("/hold"));
  auto responder = NextHeld();
  client.Send(ahead + ahead);
  AwaitGone(1);
  EXPECT_TRUE(client.AtEnd());
  Do(kept, [&] { kept->Respond(Body("first")); });
  EXPECT_EQ(patient.Read().body, "first");
  EXPECT_EQ(patient.Read().body, "POST  " + std::string(700, 'x'));
}

TEST_F(HttpServerTest, BodiesMayComeInChunksAndByteByByte) {
  Start();
  RawClient client(port());
  const std::string request =
      "POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
  for (const char c : request) client.Send({&c, 1});
  EXPECT_EQ(client.Read().body, "POST  abcde");
}

TEST_F(HttpServerTest, ExpectContinueIsAnsweredBeforeTheBody) {
  Start();
  RawClient client(port());
  client.Send("POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.Read().status, 100);
  client.Send("abc");
  EXPECT_EQ(client.Read().body, "POST  abc");
}

TEST_F(HttpServerTest, HeadHasNoBody) {
  Start();
  RawClient client(port());
  client.Send("HEAD /echo HTTP/1.1\r\nHost: t\r\n\r\n");
  const RawResponse head = client.ReadHead();
  EXPECT_EQ(head.status, 200);
  EXPECT_NE(head.headers.at("content-length"), "0");
  client.Send(PostRequest("/echo", "next"));
  EXPECT_EQ(client.Read().body, "POST  next");
}

TEST_F(HttpServerTest, Http10GetsAnUnframedStreamAndAClose) {
  Start();
  RawClient client(port());
  client.Send("GET /hold HTTP/1.0\r\n\r\n");
  auto responder = NextHeld();
  Do(responder, [&] {
    responder->BeginStream();
    responder->Write("data: a\n\n");
    responder->End();
  });
  const RawResponse response = client.Read();
  EXPECT_EQ(response.headers.count("transfer-encoding"), 0u);
  EXPECT_EQ(response.headers.at("connection"), "close");
  EXPECT_EQ(response.body, "data: a\n\n");
}

struct Refusal {
  const char* name;
  std::string request;
  int status;
  const char* code;
};

class HttpRefusalTest : public HttpServerTest, public ::testing::WithParamInterface<Refusal> {};

TEST_P(HttpRefusalTest, IsAJsonErrorAndAClose) {
  Start();
  RawClient client(port());
  client.Send(GetParam().request);
  const RawResponse response = client.Read();
  EXPECT_EQ(response.status, GetParam().status);
  EXPECT_NE(response.body.find(std::string("\"code\":\"") + GetParam().code + "\""), std::string::npos)
      << response.body;
  EXPECT_EQ(response.headers.at("connection"), "close");
  EXPECT_TRUE(client.AtEnd());
  // Nobody else notices.
  EXPECT_EQ(Fetch(port(), PostRequest("/echo", "x")).status, 200);
}

INSTANTIATE_TEST_SUITE_P(
    All, HttpRefusalTest,
    ::testing::Values(
        Refusal{"smuggle_cl_te",
                "POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                400, "bad_request"},
        Refusal{"smuggle_te_cl",
                "POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
                400, "bad_request"},
        Refusal{"two_lengths", "POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
                400, "bad_request"},
        Refusal{"odd_encoding", "POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip\r\n\r\nab", 400,
                "bad_request"},
        Refusal{"chunked_not_last",
                "POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400,
                "bad_request"},
        Refusal{"no_length", "POST /echo HTTP/1.1\r\nHost: t\r\n\r\n", 411, "length_required"},
        Refusal{"negative_length", "POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: -1\r\n\r\n", 400, "bad_request"},
        Refusal{"no_host", "GET /echo HTTP/1.1\r\n\r\n", 400, "bad_request"},
        Refusal{"two_hosts", "GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "bad_request"},
        Refusal{"not_http", "\x16\x03\x01 what is this\r\n\r\n", 400, "bad_request"},
        Refusal{"http2", "GET /echo HTTP/2.0\r\nHost: a\r\n\r\n", 400, "bad_request"},
        Refusal{"odd_expectation", "POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nExpect: 200-ok\r\n\r\n", 417,
                "expectation_failed"},
        Refusal{"large_declared", "POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 1048577\r\n\r\n", 413,
                "request_too_large"},
        Refusal{"large_sent", PostRequest("/echo", std::string(1500000, 'x')), 413, "request_too_large"},
        Refusal{"large_chunk", "POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n200000\r\n", 413,
                "request_too_large"},
        Refusal{"large_header", "GET /echo HTTP/1.1\r\nHost: t\r\nX: " + std::string(20000, 'x') + "\r\n\r\n", 431,
                "headers_too_large"},
        Refusal{"endless_chunk_extension",
                "POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n1;" + std::string(60000, 'x'), 431,
                "headers_too_large"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_F(HttpServerTest, ASlowHeaderAndASlowBodyTimeOut) {
  Limits limits;
  limits.header_timeout = 100 * kMillisecond;
  limits.body_timeout = 100 * kMillisecond;
  Start(limits);
  RawClient header(port());
  header.Send("GET /echo HTT");
  EXPECT_EQ(header.Read().status, 408);
  EXPECT_TRUE(header.AtEnd());
  RawClient body(port());
  body.Send("POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nabc");
  EXPECT_EQ(body.Read().status, 408);
  EXPECT_TRUE(body.AtEnd());
  RawClient silent(port());
  EXPECT_TRUE(silent.AtEnd());  // nothing was asked: closed without a word
}

TEST_F(HttpServerTest, AnIdleConnectionIsClosed) {
  Limits limits;
  limits.idle_timeout = 100 * kMillisecond;
  Start(limits);
  RawClient client(port());
  client.Send(PostRequest("/echo", "x"));
  EXPECT_EQ(client.Read().status, 200);
  EXPECT_TRUE(client.AtEnd());
}

TEST_F(HttpServerTest, ADisconnectIsToldWhileTheAnswerIsPending) {
  Start();
  auto client = std::make_unique<RawClient>(port());
  client->Send(GetRequest("/hold"));
  auto responder = NextHeld();
  EXPECT_EQ(server_->open_exchanges(), 1);
  client.reset();
  AwaitGone(1);
  EXPECT_EQ(server_->open_exchanges(), 0);
  EXPECT_EQ(AwaitStatuses(1), std::vector<int>{499});
  // What comes too late goes nowhere.
  Do(responder, [&] {
    responder->Respond(Body("late"));
    EXPECT_FALSE(responder->Write("late"));
  });
}

TEST_F(HttpServerTest, ADisconnectIsToldInTheMiddleOfAStream) {
  Start();
  auto client = std::make_unique<RawClient>(port());
  client->Send(GetRequest("/hold"));
  auto responder = NextHeld();
  Do(responder, [&] {
    responder->BeginStream();
    responder->Write("data: a\n\n");
  });
  EXPECT_NE(client->ReadUntil("data: a\n\n"), "");
  client.reset();
  AwaitGone(1);
}

TEST_F(HttpServerTest, AnAnsweredRequestIsNeverGone) {
  Start();
  RawClient client(port());
  client.Send(GetRequest("/hold"));
  auto responder = NextHeld();
  Do(responder, [&] { responder->Respond(Body("x")); });
  EXPECT_EQ(client.Read().body, "x");
  client.Close();
  EXPECT_EQ(AwaitStatuses(1), std::vector<int>{200});
  RawClient other(port());
  other.Send(PostRequest("/echo", "x"));
  EXPECT_EQ(other.Read().status, 200);
  MutexLock lock(mutex_);
  EXPECT_EQ(gone_, 0);
}

TEST_F(HttpServerTest, ASlowReaderIsCutOff) {
  Limits limits;
  limits.socket_send_bytes = 4096;
  Start(limits);
  RawClient client(port(), 4096);
  client.Send(GetRequest("/hold"));
  auto responder = NextHeld();
  const std::string event = "data: " + std::string(1000, 'x') + "\n\n";
  int written = 0;
  Do(responder, [&] {
    responder->BeginStream();
    // Far more than the kernel and the queue together take.
    while (written < 100000 && responder->Write(event)) ++written;
  });
  EXPECT_GT(written, 60);  // the queue held its 64 KiB
  EXPECT_LT(written, 100000);
  AwaitGone(1);
}

TEST_F(HttpServerTest, APeerThatTakesNothingIsGoneAfterAWhile) {
  Limits limits;
  limits.socket_send_bytes = 4096;
  limits.write_timeout = 100 * kMillisecond;
  Start(limits);
  RawClient client(port(), 4096);
  client.Send(GetRequest("/hold"));
  auto responder = NextHeld();
  Do(responder, [&] { responder->Respond(Body(std::string(8 << 20, 'x'))); });
  AwaitGone(1);
  EXPECT_EQ(AwaitStatuses(1), std::vector<int>{499});
}

TEST_F(HttpServerTest, ABrokenAnswerIsSeenAsBroken) {
  Start();
  RawClient client(port());
  client.Send(GetRequest("/hold"));
  auto responder = NextHeld();
  Do(responder, [&] {
    responder->BeginStream();
    responder->Write("data: a\n\n");
    responder->Break();
  });
  const RawResponse response = client.Read();
  EXPECT_EQ(response.status, 200);
  EXPECT_FALSE(response.complete);
}

TEST_F(HttpServerTest, APortInUseIsSaidClearly) {
  Start();
  HttpServerOptions options;
  options.port = port();
  const auto second = HttpServer::Start(
      options, [](Request, std::shared_ptr<Responder>) {}, nullptr);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(second.status().message()).find("port " + std::to_string(port())), std::string::npos);
}

TEST_F(HttpServerTest, AnUnknownHostIsSaidClearly) {
  HttpServerOptions options;
  options.host = "203.0.113.7";  // TEST-NET-3: never ours
  const auto server = HttpServer::Start(
      options, [](Request, std::shared_ptr<Responder>) {}, nullptr);
  EXPECT_EQ(server.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(HttpServerTest, TooManyConnectionsAreRefused) {
  Limits limits;
  limits.connections = 2;
  Start(limits);
  RawClient first(port()), second(port());
  first.Send(PostRequest("/echo", "x"));
  second.Send(PostRequest("/echo", "x"));
  EXPECT_EQ(first.Read().status, 200);
  EXPECT_EQ(second.Read().status, 200);
  RawClient third(port());
  third.Send(PostRequest("/echo", "x"));
  const RawResponse refused = third.Read();
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.headers.count("retry-after"), 1u);
  EXPECT_TRUE(third.AtEnd());
}

TEST_F(HttpServerTest, WhileItDrainsEveryAnswerIsTheLastOfItsConnection) {
  Start();
  RawClient before(port()), running(port());
  before.Send(PostRequest("/echo", "x"));
  EXPECT_EQ(before.Read().headers.at("connection"), "keep-alive");
  running.Send(GetRequest("/hold"));
  auto responder = NextHeld();
  Do(responder, [&] { responder->BeginStream(); });
  EXPECT_EQ(running.ReadHead().headers.at("connection"), "keep-alive");
  server_->Drain();
  before.Send(PostRequest("/echo", "x"));
  const RawResponse last = before.Read();
  EXPECT_EQ(last.status, 200);
  EXPECT_EQ(last.headers.at("connection"), "close");
  EXPECT_TRUE(before.AtEnd());
  RawClient late(port());
  late.Send(PostRequest("/echo", "x"));
  EXPECT_EQ(late.Read().headers.at("connection"), "close");
  EXPECT_TRUE(late.AtEnd());
  // A stream that had begun goes on to its end.
  Do(responder, [&] {
    EXPECT_TRUE(responder->Write("more"));
    responder->End();
  });
  EXPECT_NE(running.ReadToEnd().find("more"), std::string::npos);
}

TEST_F(HttpServerTest, ShutdownWithOpenStreamsEnds) {
  Start();
  RawClient client(port());
  client.Send(GetRequest("/hold"));
  auto responder = NextHeld();
  Do(responder, [&] { responder->BeginStream(); });
  server_.reset();
  EXPECT_FALSE(client.Read().complete);
  EXPECT_FALSE(responder->Write("x"));
  responder->executor()->Post([] { FAIL(); });  // dropped
}

}  // namespace
}  // namespace shoal::http
