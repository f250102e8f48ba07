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

void AppendEnd(const AnswerEnd& end, std::string* out) {
  out->append(R"("logprobs":null,"finish_reason":")").append(end.finish_reason);
  out->append(R"(","stop_reason":)").append(end.stop_reason).append("}]");
}

}  // namespace

std::string AnswerBody(const AnswerHead& head, std::string_view text, const AnswerEnd& end, const Usage& usage) {
  std::string out = Prefix(head, false);
  out += R"(,"choices":[{"index":0,)";
  out += head.chat ? R"("message":{"role":"assistant","content":)" : R"("text":)";
  AppendJsonString(text, &out);
  out += head.chat ? R"(,"refusal":null},)" : ",";
  AppendEnd(end, &out);
  out += R"(,"usage":)";
  AppendUsage(usage, &out);
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

std::string ChunkWriter::Role(const Usage& usage) const {
  std::string event = prefix_;
  event += R"(,"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}])";
  AppendTail(usage, &event);
  return event;
}

std::string ChunkWriter::Text(std::string_view text, const Usage& usage) const {
  std::string event;
  event.reserve(prefix_.size() + text.size() + 128);
  event += prefix_;
  event += chat_ ? R"(,"choices":[{"index":0,"delta":{"content":)" : R"(,"choices":[{"index":0,"text":)";
  AppendJsonString(text, &event);
  event += chat_ ? R"(},"logprobs":null,"finish_reason":null}])" : R"(,"logprobs":null,"finish_reason":null}])";
  AppendTail(usage, &event);
  return event;
}

std::string ChunkWriter::End(const AnswerEnd& end, const Usage& usage) const {
  std::string event = prefix_;
  event += chat_ ? R"(,"choices":[{"index":0,"delta":{},)" : R"(,"choices":[{"index":0,"text":"",)";
  AppendEnd(end, &event);
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
