// The bytes of answers: chat completions and completions, whole and as events. Written by hand, since a chunk is made
// for every token of every stream.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

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

// How a choice ended. `finish_reason`: "stop" or "length". `stop_reason`: the JSON of the stop string that ended it,
// or "null" (vLLM's field).
struct AnswerEnd {
  std::string_view finish_reason;
  std::string stop_reason = "null";
};

// A whole choice. What is JSON is "null" or shaped by logprob_format.h.
struct ChoiceBody {
  std::string text;
  AnswerEnd end;
  std::string logprobs = "null";  // JSON
};

// A whole answer. `prompt_logprobs`: JSON; empty: they were not asked for.
std::string AnswerBody(const AnswerHead& head, const std::vector<ChoiceBody>& choices, std::string_view prompt_logprobs,
                       const Usage& usage);

// Makes the events of one stream. Every event is "data: {...}\n\n".
class ChunkWriter {
 public:
  // with_usage: every chunk has the key "usage", null unless `continuous`.
  ChunkWriter(const AnswerHead& head, bool with_usage, bool continuous);

  std::string Role(int32_t choice, const Usage& usage) const;  // chat's first event of a choice
  std::string Text(int32_t choice, std::string_view text, std::string_view logprobs, const Usage& usage) const;
  std::string End(int32_t choice, const AnswerEnd& end, const Usage& usage) const;
  // After all ends: no choices, the usage.
  std::string FinalUsage(const Usage& usage) const;

  static std::string_view Done() { return "data: [DONE]\n\n"; }
  // A comment: no event to clients, a sign of life to proxies that cut streams which say nothing.
  static std::string_view KeepAlive() { return ": keep-alive\n\n"; }

 private:
  std::string Begin(int32_t choice, size_t more) const;
  void AppendTail(const Usage& usage, std::string* event) const;

  const bool chat_, with_usage_, continuous_;
  std::string prefix_;  // everything before "choices"
};

}  // namespace shoal::http
