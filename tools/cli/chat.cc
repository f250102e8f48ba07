#include <editline/readline.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <boost/json.hpp>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <optional>

#include "absl/strings/str_cat.h"
#include "tools/cli/client_verbs.h"
#include "tools/cli/http_client.h"
#include "tools/cli/sse.h"

namespace shoal::cli {
namespace {

namespace json = boost::json;

std::atomic<bool> interrupted{false};
std::atomic<int> connection{-1};
static_assert(std::atomic<int>::is_always_lock_free);

// Ends the connection that the answer comes over, also while nothing has come yet.
void OnInterrupt(int) {
  interrupted.store(true);
  const int fd = connection.load();
  if (fd >= 0) shutdown(fd, SHUT_RDWR);
}

// While an answer streams, SIGINT stops it; at the prompt it ends the program as usual.
class InterruptStopsAnswer {
 public:
  InterruptStopsAnswer() {
    interrupted.store(false);
    struct sigaction action {};
    action.sa_handler = OnInterrupt;
    action.sa_flags = SA_RESTART;
    sigaction(SIGINT, &action, &before_);
  }
  ~InterruptStopsAnswer() { sigaction(SIGINT, &before_, nullptr); }

 private:
  struct sigaction before_ {};
};

// The next line; history and editing on a terminal. Empty at end of file.
std::optional<std::string> ReadLine() {
  if (isatty(STDIN_FILENO) == 1) {
    char* line = readline("> ");
    if (line == nullptr) return std::nullopt;
    std::string text(line);
    std::free(line);
    if (!text.empty()) add_history(text.c_str());
    return text;
  }
  std::string text;
  if (!std::getline(std::cin, text)) return std::nullopt;
  return text;
}

// The text that an event of the stream adds; an error object ends up in *error.
std::string DeltaOf(std::string_view data, std::string* error) {
  if (data == "[DONE]") return "";
  json::error_code failed;
  const json::value chunk = json::parse(json::string_view(data.data(), data.size()), failed);
  if (failed || !chunk.is_object()) return "";
  if (const json::value* e = chunk.get_object().if_contains("error")) {
    const json::value* message = e->is_object() ? e->get_object().if_contains("message") : nullptr;
    *error = message != nullptr && message->is_string() ? std::string(message->get_string()) : json::serialize(*e);
    return "";
  }
  const json::value* text = chunk.find_pointer("/choices/0/delta/content", failed);
  return text != nullptr && text->is_string() ? std::string(text->get_string()) : "";
}

std::string FirstModel(const ClientOptions& options) {
  const auto reply = Http(options.url, "GET", "/v1/models", "", options.api_key, nullptr);
  if (!reply.ok()) return "";
  json::error_code failed;
  const json::value models = json::parse(reply->body, failed);
  const json::value* id = failed ? nullptr : models.find_pointer("/data/0/id", failed);
  return id != nullptr && id->is_string() ? std::string(id->get_string()) : "";
}

json::object Message(const char* role, const std::string& content) { return {{"role", role}, {"content", content}}; }

// Streams one answer to stdout. False when there was none; the reason is shown.
bool Answer(const ClientOptions& options, const std::string& model, const json::array& messages, std::string* answer) {
  json::object request = {{"model", model}, {"messages", messages}, {"stream", true}};
  if (options.temperature >= 0) request["temperature"] = options.temperature;
  if (options.max_tokens > 0) request["max_tokens"] = options.max_tokens;
  std::string error;
  SseParser events([&](std::string_view data) {
    const std::string delta = DeltaOf(data, &error);
    answer->append(delta);
    std::fputs(delta.c_str(), stdout);
    std::fflush(stdout);
  });
  const InterruptStopsAnswer guard;
  const auto reply = Http(
      options.url, "POST", "/v1/chat/completions", json::serialize(request), options.api_key,
      [&](std::string_view piece) {
        events.Push(piece);
        return !interrupted.load();
      },
      &connection);
  std::fputs(interrupted.load() ? " [stopped]\n" : "\n", stdout);
  if (interrupted.load()) return true;
  if (!reply.ok()) {
    error = std::string(reply.status().message());
  } else if (reply->status != 200) {
    DeltaOf(reply->body, &error);
    if (error.empty()) error = absl::StrCat("HTTP ", reply->status, ": ", reply->body);
  }
  if (!error.empty()) std::fprintf(stderr, "shoal: %s\n", error.c_str());
  return error.empty();
}

}  // namespace

int RunChat(const ClientOptions& options) {
  std::setlocale(LC_ALL, "");  // so that line editing knows UTF-8
  const std::string model = options.model.empty() ? FirstModel(options) : options.model;
  if (model.empty()) {
    std::fprintf(stderr, "shoal: no server at %s, or it serves no model yet; start one with `shoal serve`\n",
                 options.url.c_str());
    return 1;
  }
  const bool terminal = isatty(STDIN_FILENO) == 1;
  if (terminal) std::printf("%s at %s. Ctrl-C stops an answer, Ctrl-D ends.\n", model.c_str(), options.url.c_str());
  json::array messages;
  if (!options.system.empty()) messages.push_back(Message("system", options.system));
  bool good = true;
  while (const auto line = ReadLine()) {
    if (line->find_first_not_of(" \t") == std::string::npos) continue;
    messages.push_back(Message("user", *line));
    std::string answer;
    if (Answer(options, model, messages, &answer)) {
      messages.push_back(Message("assistant", answer));
    } else {
      messages.pop_back();
      good = false;
    }
  }
  if (terminal) std::printf("\n");
  return good || terminal ? 0 : 1;
}

}  // namespace shoal::cli
