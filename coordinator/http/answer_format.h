// The bytes of answers: chat completions and completions, whole and as events. Written by hand, since a chunk is made
// for every token of every stream.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace shoal::http {

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
};

struct AnswerHead {
  bool chat = false;
  std::string id;       // "chatcmpl-..." or "cmpl-..."
  int64_t created = 0;  // seconds since 1970
  std::string model;    // the name the client used
  std::string system_fingerprint;
};

// How an answer ended. `finish_reason`: "stop" or "length". `stop_reason`: the JSON of the stop string that ended it,
// or "null" (vLLM's field).
struct AnswerEnd {
  std::string_view finish_reason;
  std::string stop_reason = "null";
};

// A whole answer.
std::string AnswerBody(const AnswerHead& head, std::string_view text, const AnswerEnd& end, const Usage& usage);

// Makes the events of one stream. Every event is "data: {...}\n\n".
class ChunkWriter {
 public:
  // with_usage: every chunk has the key "usage", null unless `continuous`.
  ChunkWriter(const AnswerHead& head, bool with_usage, bool continuous);

  std::string Role(const Usage& usage) const;  // chat's first event
  std::string Text(std::string_view text, const Usage& usage) const;
  std::string End(const AnswerEnd& end, const Usage& usage) const;
  // After End: no choices, the usage.
  std::string FinalUsage(const Usage& usage) const;

  static std::string_view Done() { return "data: [DONE]\n\n"; }
  // A comment: no event to clients, a sign of life to proxies that cut streams which say nothing.
  static std::string_view KeepAlive() { return ": keep-alive\n\n"; }

 private:
  void AppendTail(const Usage& usage, std::string* event) const;

  const bool chat_, with_usage_, continuous_;
  std::string prefix_;  // everything before "choices"
};

}  // namespace shoal::http
