// Tested by: tests/e2e/drain_test.py
#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tools/cli/client_verbs.h"
#include "tools/cli/http_client.h"

namespace shoal::cli {
namespace {

namespace json = boost::json;

constexpr auto kLook = std::chrono::milliseconds(250);
constexpr int kMaxMisses = 20;  // looks in a row that the server may leave unanswered

int Complain(const std::string& text) {
  std::fprintf(stderr, "shoal: %s\n", text.c_str());
  return 1;
}

std::string Text(const json::object& o, const char* key) {
  const json::value* v = o.if_contains(key);
  return v != nullptr && v->is_string() ? std::string(v->get_string()) : std::string();
}

json::object Object(const std::string& body) {
  json::error_code error;
  json::value value = json::parse(body, error);
  return !error && value.is_object() ? value.get_object() : json::object();
}

// What the server says about the agent now; empty: nothing.
json::object Find(const json::object& cluster, const std::string& id) {
  const json::value* agents = cluster.if_contains("agents");
  if (agents == nullptr || !agents->is_array()) return {};
  for (const json::value& agent : agents->get_array()) {
    if (agent.is_object() && Text(agent.get_object(), "id") == id) return agent.get_object();
  }
  return {};
}

std::string Refusal(const HttpReply& reply) {
  const json::object body = Object(reply.body);
  const json::value* error = body.if_contains("error");
  const std::string message = error != nullptr && error->is_object() ? Text(error->get_object(), "message") : "";
  return message.empty() ? absl::StrCat("HTTP ", reply.status, ": ", reply.body) : message;
}

// Until the agent is drained, or will not be.
int Wait(const ClientOptions& options, const std::string& id) {
  std::string said;
  int misses = 0;
  bool seen = false;  // the server's picture lags behind its answer
  for (;; std::this_thread::sleep_for(kLook)) {
    const auto reply = Http({.url = options.url, .path = "/v1/cluster", .api_key = options.api_key});
    if (!reply.ok() || reply->status != 200) {
      if (++misses < kMaxMisses) continue;
      return Complain(reply.ok() ? Refusal(*reply) : std::string(reply.status().message()));
    }
    misses = 0;
    const json::object agent = Find(Object(reply->body), id);
    if (agent.empty()) return Complain(absl::StrCat("agent ", id, " has gone before it was drained"));
    const std::string state = Text(agent, "state"), detail = Text(agent, "detail");
    if (state == "drained") {
      std::printf("agent %s is drained: it may be stopped\n", id.c_str());
      return 0;
    }
    if (state == "draining") {
      seen = true;
      if (detail != said && !detail.empty()) {
        std::printf("%s\n", detail.c_str());
        std::fflush(stdout);
      }
      said = detail;
    } else if (seen) {
      return Complain(absl::StrCat("agent ", id, " has registered anew and is ", state, " again"));
    } else if (++misses >= kMaxMisses) {
      return Complain(absl::StrCat("agent ", id, " is ", state, ": the server has not begun to drain it"));
    }
  }
}

}  // namespace

int RunDrain(const ClientOptions& options) {
  const auto reply = Http({.url = options.url,
                           .method = "POST",
                           .path = "/v1/cluster/drain",
                           .body = json::serialize(json::object{{"agent", options.agent}}),
                           .api_key = options.api_key});
  if (!reply.ok()) return Complain(std::string(reply.status().message()));
  if (reply->status != 200 && reply->status != 202) return Complain(Refusal(*reply));
  const json::object answer = Object(reply->body);
  const std::string id = Text(answer, "agent");
  std::printf("agent %s on %s: %s\n", id.c_str(), Text(answer, "hostname").c_str(), Text(answer, "detail").c_str());
  std::fflush(stdout);
  return reply->status == 200 || !options.wait ? 0 : Wait(options, id);
}

}  // namespace shoal::cli
