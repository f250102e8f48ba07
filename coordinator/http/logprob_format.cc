// Tested by: tests/http/logprobs_test.cc
#include "coordinator/http/logprob_format.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "coordinator/http/json_writer.h"

namespace shoal::http {
namespace {

// JSON has no infinities. OpenAI's word for "almost never".
constexpr float kLeast = -9999;

void AppendNumber(float value, std::string* out) {
  if (!(value > kLeast)) value = kLeast;
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value + 0.0f).ptr;  // -0 becomes 0
  out->append(text, end);
}

void AppendComma(char open, std::string* out) {
  if (out->back() != open) *out += ',';
}

size_t Tops(const plan::TokenLogprobs& of, const LogprobFormat& format) {
  return std::min(of.top_ids.size(), static_cast<size_t>(std::max(format.tops, 0)));
}

std::string IdText(int32_t token) { return "token_id:" + std::to_string(token); }

// As completions have it: the text alone, which must tell tokens apart.
std::string TokenText(int32_t token, const LogprobFormat& format) {
  if (format.as_ids) return IdText(token);
  std::string bytes = format.tokenizer->TokenBytes(token, true);
  if (ValidUtf8Prefix(bytes) == bytes.size()) return bytes;
  static constexpr char kHex[] = "0123456789abcdef";
  std::string text = "bytes:";
  for (const char c : bytes) {
    text += "\\x";
    text += kHex[static_cast<uint8_t>(c) >> 4];
    text += kHex[static_cast<uint8_t>(c) & 15];
  }
  return text;
}

// {"token":...,"logprob":...,"bytes":[...] without the closing brace.
void AppendChatToken(int32_t token, float logprob, const LogprobFormat& format, std::string* out) {
  const std::string bytes = format.tokenizer->TokenBytes(token, true);
  *out += R"({"token":)";
  AppendJsonString(format.as_ids ? IdText(token) : bytes, out);
  *out += R"(,"logprob":)";
  AppendNumber(logprob, out);
  *out += R"(,"bytes":[)";
  for (const char c : bytes) {
    AppendComma('[', out);
    *out += std::to_string(static_cast<uint8_t>(c));
  }
  *out += "]";
}

void AppendTop(const plan::TokenLogprobs& of, const LogprobFormat& format, std::string* out) {
  std::set<std::string> named;  // two tokens may read the same: the likelier one stands for both
  const auto append = [&](int32_t token, float logprob) {
    std::string text = TokenText(token, format);
    if (named.contains(text)) return;
    AppendComma('{', out);
    AppendJsonString(text, out);
    *out += ':';
    AppendNumber(logprob, out);
    named.insert(std::move(text));
  };
  *out += '{';
  for (size_t i = 0; i < Tops(of, format); ++i) append(of.top_ids[i], of.top_logprobs[i]);
  append(of.token, of.logprob);
  *out += '}';
}

void AppendRanked(int32_t token, float logprob, int32_t rank, const LogprobFormat& format, std::string* out) {
  *out += '"';
  *out += std::to_string(token);
  *out += R"(":{"logprob":)";
  AppendNumber(logprob, out);
  *out += R"(,"rank":)";
  *out += std::to_string(rank);
  *out += R"(,"decoded_token":)";
  AppendJsonString(format.tokenizer->TokenBytes(token, true), out);
  *out += '}';
}

}  // namespace

void AppendChatLogprobs(const std::vector<ScoredToken>& tokens, const LogprobFormat& format, std::string* out) {
  *out += R"({"content":[)";
  for (const ScoredToken& t : tokens) {
    if (!t.logprobs.has_value()) continue;
    AppendComma('[', out);
    AppendChatToken(t.token, t.logprobs->logprob, format, out);
    *out += R"(,"top_logprobs":[)";
    for (size_t i = 0; i < Tops(*t.logprobs, format); ++i) {
      AppendComma('[', out);
      AppendChatToken(t.logprobs->top_ids[i], t.logprobs->top_logprobs[i], format, out);
      *out += '}';
    }
    *out += "]}";
  }
  *out += R"(],"refusal":null})";
}

void AppendCompletionLogprobs(const std::vector<ScoredToken>& tokens, const LogprobFormat& format, std::string* out) {
  const auto list = [&](const char* name, const auto& append) {
    *out += name;
    *out += '[';
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (i > 0) *out += ',';
      append(tokens[i]);
    }
    *out += ']';
  };
  list(R"({"text_offset":)", [&](const ScoredToken& t) { *out += std::to_string(t.offset); });
  list(R"(,"token_logprobs":)", [&](const ScoredToken& t) {
    if (t.logprobs.has_value()) return AppendNumber(t.logprobs->logprob, out);
    *out += "null";
  });
  list(R"(,"tokens":)", [&](const ScoredToken& t) { AppendJsonString(TokenText(t.token, format), out); });
  list(R"(,"top_logprobs":)", [&](const ScoredToken& t) {
    if (t.logprobs.has_value()) return AppendTop(*t.logprobs, format, out);
    *out += "null";
  });
  *out += '}';
}

void AppendPromptLogprobs(const std::vector<plan::TokenLogprobs>& tokens, const LogprobFormat& format,
                          std::string* out) {
  *out += "[null";
  for (const plan::TokenLogprobs& of : tokens) {
    *out += ",{";
    AppendRanked(of.token, of.logprob, of.rank, format, out);
    for (size_t i = 0; i < Tops(of, format); ++i) {
      if (of.top_ids[i] == of.token) continue;
      *out += ',';
      AppendRanked(of.top_ids[i], of.top_logprobs[i], static_cast<int32_t>(i) + 1, format, out);
    }
    *out += '}';
  }
  *out += ']';
}

int32_t Characters(std::string_view text) {
  return static_cast<int32_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

}  // namespace shoal::http
