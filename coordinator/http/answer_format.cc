#include "coordinator/http/answer_format.h"

#include "coordinator/http/json_writer.h"

namespace shoal::http {
namespace {

void AppendUsage(const Usage& usage, std::string* out) {
  out->append(R"({"prompt_tokens":)").append(std::to_string(usage.prompt_tokens));
  out->append(R"(,"completion_tokens":)").append(std::to_string(usage.completion_tokens));
  out->append(R"(,"total_tokens":)").append(std::to_string(usage.prompt_tokens + usage.completion_tokens));
  out->append("}");
}

// {"id":...,"object":...,"created":...,"model":...,"system_fingerprint":...
std::string Prefix(const AnswerHead& head, bool chunk) {
  std::string out = R"({"id":)";
  AppendJsonString(head.id, &out);
  const char* object = head.chat ? (chunk ? "chat.completion.chunk" : "chat.completion") : "text_completion";
  out.append(R"(,"object":")").append(object);
  out.append(R"(","created":)").append(std::to_string(head.created)).append(R"(,"model":)");
  AppendJsonString(head.model, &out);
  out += R"(,"system_fingerprint":)";
  AppendJsonString(head.system_fingerprint, &out);
  return out;
}

void AppendEnd(const AnswerEnd& end, std::string_view logprobs, std::string* out) {
  out->append(R"("logprobs":)").append(logprobs);
  out->append(R"(,"finish_reason":")").append(end.finish_reason);
  out->append(R"(","stop_reason":)").append(end.stop_reason);
}

}  // namespace

std::string AnswerBody(const AnswerHead& head, const std::vector<ChoiceBody>& choices, std::string_view prompt_logprobs,
                       const Usage& usage) {
  std::string out = Prefix(head, false);
  out += R"(,"choices":[)";
  for (size_t i = 0; i < choices.size(); ++i) {
    if (i > 0) out += ',';
    out.append(R"({"index":)").append(std::to_string(i));
    out += head.chat ? R"(,"message":{"role":"assistant","content":)" : R"(,"text":)";
    AppendJsonString(choices[i].text, &out);
    out += head.chat ? R"(,"refusal":null},)" : ",";
    AppendEnd(choices[i].end, choices[i].logprobs, &out);
    // vLLM has them beside the choices of a chat, and in each of a completion.
    if (!head.chat && !prompt_logprobs.empty()) out.append(R"(,"prompt_logprobs":)").append(prompt_logprobs);
    out += '}';
  }
  out += R"(],"usage":)";
  AppendUsage(usage, &out);
  if (head.chat && !prompt_logprobs.empty()) out.append(R"(,"prompt_logprobs":)").append(prompt_logprobs);
  out += "}";
  return out;
}

ChunkWriter::ChunkWriter(const AnswerHead& head, bool with_usage, bool continuous)
    : chat_(head.chat), with_usage_(with_usage), continuous_(continuous), prefix_("data: " + Prefix(head, true)) {}

void ChunkWriter::AppendTail(const Usage& usage, std::string* event) const {
  if (with_usage_) {
    *event += R"(,"usage":)";
    if (continuous_) {
      AppendUsage(usage, event);
    } else {
      *event += "null";
    }
  }
  *event += "}\n\n";
}

// An event up to what is in the choice, with room for `more` bytes.
std::string ChunkWriter::Begin(int32_t choice, size_t more) const {
  std::string event;
  event.reserve(prefix_.size() + more + 160);
  event.append(prefix_).append(R"(,"choices":[{"index":)").append(std::to_string(choice));
  return event;
}

std::string ChunkWriter::Role(int32_t choice, const Usage& usage) const {
  std::string event = Begin(choice, 0);
  event += R"(,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}])";
  AppendTail(usage, &event);
  return event;
}

std::string ChunkWriter::Text(int32_t choice, std::string_view text, std::string_view logprobs,
                              const Usage& usage) const {
  std::string event = Begin(choice, text.size() + logprobs.size());
  event += chat_ ? R"(,"delta":{"content":)" : R"(,"text":)";
  AppendJsonString(text, &event);
  event += chat_ ? R"(},"logprobs":)" : R"(,"logprobs":)";
  event.append(logprobs).append(R"(,"finish_reason":null}])");
  AppendTail(usage, &event);
  return event;
}

std::string ChunkWriter::End(int32_t choice, const AnswerEnd& end, const Usage& usage) const {
  std::string event = Begin(choice, 0);
  event += chat_ ? R"(,"delta":{},)" : R"(,"text":"",)";
  AppendEnd(end, "null", &event);
  event += "}]";
  AppendTail(usage, &event);
  return event;
}

std::string ChunkWriter::FinalUsage(const Usage& usage) const {
  std::string event = prefix_;
  event += R"(,"choices":[],"usage":)";
  AppendUsage(usage, &event);
  event += "}\n\n";
  return event;
}

}  // namespace shoal::http
