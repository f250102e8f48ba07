// The real server and routes over a scripted engine.
#pragma once

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/http/api.h"
#include "coordinator/http/http_server.h"
#include "tests/http/raw_client.h"
#include "tests/http/scripted_engine.h"

namespace shoal::http {

class ApiFixture : public ::testing::Test {
 protected:
  void SetUp() override { Start({}); }

  void Start(ApiOptions options, std::unique_ptr<journal::Journal> journal = nullptr) {
    server_.reset();
    options.version = "1.2.3";
    HttpServerOptions http;
    http.limits = options.limits;
    api_ = std::make_unique<Api>(options, &engine_, &metrics_, std::move(journal));
    auto server = HttpServer::Start(
        http,
        [this](Request request, std::shared_ptr<Responder> to) { api_->Handle(std::move(request), std::move(to)); },
        [this](const Exchange& exchange) { api_->Observe(exchange); });
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(*server);
  }
  int port() const { return server_->port(); }

  // `extra`: further fields, each with a comma before.
  static std::string ChatBody(const std::string& extra) {
    return R"({"model":"tiny","messages":[{"role":"user","content":"hi"}])" + extra + "}";
  }
  static std::string CompletionBody(const std::string& extra) {
    return R"({"model":"tiny","prompt":"hi")" + extra + "}";
  }

  RawResponse Post(const std::string& path, const std::string& body) { return Fetch(port(), PostRequest(path, body)); }

  // The answer to a request that the engine completes with these tokens.
  RawResponse Complete(const std::string& path, const std::string& body, const std::vector<std::string>& steps,
                       core::FinishReason reason = core::FinishReason::kStop) {
    RawClient client(port());
    client.Send(PostRequest(path, body));
    last_ = engine_.AwaitRequest();
    for (const std::string& step : steps) engine_.Emit(last_.id, Bytes(step));
    engine_.Finish(last_.id, reason);
    return client.Read();
  }

  metrics::Metrics metrics_{"tiny"};
  ScriptedEngine engine_;
  core::GenerateRequest last_;
  std::unique_ptr<Api> api_;
  std::unique_ptr<HttpServer> server_;
};

// The events of a stream, without "data: "; each must be framed as exactly one event.
inline std::vector<std::string> Events(const std::string& body) {
  std::vector<std::string> events;
  size_t at = 0;
  while (at < body.size()) {
    const size_t end = body.find("\n\n", at);
    EXPECT_EQ(body.substr(at, 6), "data: ") << body.substr(at);
    if (end == std::string::npos) break;
    events.push_back(body.substr(at + 6, end - at - 6));
    EXPECT_EQ(events.back().find('\n'), std::string::npos);
    at = end + 2;
  }
  return events;
}

inline boost::json::value Json(const std::string& text) {
  boost::system::error_code ec;
  boost::json::value value = boost::json::parse(text, ec);
  EXPECT_FALSE(ec) << text;
  return value;
}

// A value as JSON text, by path: "error.code", "choices.0.text". "absent" when it is not there.
std::string At(const boost::json::value& value, const std::string& path);

}  // namespace shoal::http
