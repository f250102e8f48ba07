// Tested by: tests/e2e/chat_test.py
#include <editline/readline.h>
#include <signal.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "tools/cli/client_verbs.h"
#include "tools/cli/http_client.h"
#include "tools/cli/sse.h"

namespace shoal::cli {
namespace {

namespace json = boost::json;

// Global because a signal handler uses it.
Interrupt interrupt;

void OnInterrupt(int) { interrupt.Request(); }

// While an answer streams, SIGINT stops it; at the prompt it ends the program as usual.
class InterruptStopsAnswer {
 public:
  InterruptStopsAnswer() {
    interrupt.Reset();
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

// What the server says of a request that it refuses.
absl::Status Refusal(const HttpReply& reply) {
  std::string message;
  DeltaOf(reply.body, &message);
  return absl::FailedPreconditionError(
      absl::StrCat("HTTP ", reply.status, ": ", message.empty() ? reply.body : message));
}

absl::StatusOr<std::string> FirstModel(const ClientOptions& options) {
  SHOAL_ASSIGN_OR_RETURN(const HttpReply reply,
                         Http({.url = options.url, .path = "/v1/models", .api_key = options.api_key}));
  if (reply.status != 200) return Refusal(reply);
  json::error_code failed;
  const json::value models = json::parse(reply.body, failed);
  const json::value* id = failed ? nullptr : models.find_pointer("/data/0/id", failed);
  if (id == nullptr || !id->is_string()) {
    return absl::NotFoundError(absl::StrCat("the server at ", options.url, " names no model that it serves"));
  }
  return std::string(id->get_string());
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
  const auto reply = Http({.url = options.url,
                           .method = "POST",
                           .path = "/v1/chat/completions",
                           .body = json::serialize(request),
                           .api_key = options.api_key,
                           .on_data =
                               [&](std::string_view piece) {
                                 events.Push(piece);
                                 return !interrupt.requested();
                               },
                           .interrupt = &interrupt});
  std::fputs(interrupt.requested() ? " [stopped]\n" : "\n", stdout);
  std::fflush(stdout);
  if (interrupt.requested()) return true;
  if (!reply.ok()) {
    error = std::string(reply.status().message());
  } else if (reply->status != 200) {
    error = std::string(Refusal(*reply).message());
  }
  if (!error.empty()) std::fprintf(stderr, "shoal: %s\n", error.c_str());
  return error.empty();
}

}  // namespace

int RunChat(const ClientOptions& options) {
  std::setlocale(LC_ALL, "");  // so that line editing knows UTF-8
  const absl::StatusOr<std::string> model = options.model.empty() ? FirstModel(options) : options.model;
  if (!model.ok()) {
    std::fprintf(stderr, "shoal: %s\n", std::string(model.status().message()).c_str());
    return 1;
  }
  const bool terminal = isatty(STDIN_FILENO) == 1;
  if (terminal) std::printf("%s at %s. Ctrl-C stops an answer, Ctrl-D ends.\n", model->c_str(), options.url.c_str());
  json::array messages;
  if (!options.system.empty()) messages.push_back(Message("system", options.system));
  bool good = true;
  while (const auto line = ReadLine()) {
    if (line->find_first_not_of(" \t") == std::string::npos) continue;
    messages.push_back(Message("user", *line));
    std::string answer;
    if (Answer(options, *model, messages, &answer)) {
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
