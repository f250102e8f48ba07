// Tested by tests/e2e/serve_test.py
#include <boost/json.hpp>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/cli/client_verbs.h"
#include "tools/cli/http_client.h"
#include "tools/cli/terminal.h"

namespace shoal::cli {
namespace {

namespace json = boost::json;

std::string Text(const json::object& o, const char* key) {
  const json::value* v = o.if_contains(key);
  if (v == nullptr || v->is_null()) return "-";
  return v->is_string() ? std::string(v->get_string()) : json::serialize(*v);
}

std::string Bytes(const json::object& o, const char* key) {
  const json::value* v = o.if_contains(key);
  return v != nullptr && v->is_int64() ? HumanBytes(v->get_int64()) : "-";
}

using Row = std::vector<std::string>;

// One row for each object in the array of that name, with these of its values.
void PrintRows(const json::object& cluster, const char* name, const Row& head, const std::vector<const char*>& keys) {
  std::vector<Row> rows = {head};
  const json::value* array = cluster.if_contains(name);
  if (array != nullptr && array->is_array()) {
    for (const json::value& value : array->get_array()) {
      if (!value.is_object()) continue;
      Row& row = rows.emplace_back();
      for (const char* key : keys) {
        const std::string_view k(key);
        row.push_back(k.ends_with("_bytes") ? Bytes(value.get_object(), key) : Text(value.get_object(), key));
      }
    }
  }
  std::fputs(FormatTable(rows).c_str(), stdout);
}

void Print(const json::object& cluster) {
  std::printf("%s  epoch %s  %s\n", Text(cluster, "phase").c_str(), Text(cluster, "epoch").c_str(),
              Text(cluster, "detail").c_str());
  std::printf("running %s  waiting %s  KV blocks free %s of %s  transport %s\n\n", Text(cluster, "running").c_str(),
              Text(cluster, "waiting").c_str(), Text(cluster, "kv_blocks_free").c_str(),
              Text(cluster, "kv_blocks").c_str(), Text(cluster, "transport").c_str());
  PrintRows(cluster, "agents", {"agent", "host", "pid", "address", "state", "detail"},
            {"id", "hostname", "pid", "address", "state", "detail"});
  std::printf("\n");
  PrintRows(cluster, "ranks", {"rank", "tp", "pp", "host", "pid", "state", "step", "memory", "doing"},
            {"rank", "tp", "pp", "hostname", "pid", "state", "step", "resident_bytes", "operation"});
}

}  // namespace

int RunStatus(const ClientOptions& options) {
  const auto reply = Http({.url = options.url, .path = "/v1/cluster", .api_key = options.api_key});
  if (!reply.ok() || reply->status != 200) {
    const std::string why =
        reply.ok() ? absl::StrCat("HTTP ", reply->status, ": ", reply->body) : std::string(reply.status().message());
    std::fprintf(stderr, "shoal: %s\n", why.c_str());
    return 1;
  }
  if (options.json) {
    std::printf("%s\n", reply->body.c_str());
    return 0;
  }
  json::error_code error;
  const json::value cluster = json::parse(reply->body, error);
  if (error || !cluster.is_object()) {
    std::fprintf(stderr, "shoal: the server's answer is not a JSON object\n");
    return 1;
  }
  Print(cluster.get_object());
  return 0;
}

}  // namespace shoal::cli
