// Fields that clients know and this server does not offer yet. Dropping one silently would change what the client gets,
// so each is refused by name, unless its value asks for nothing. Tested by: tests/http/bad_request_test.cc
#include <boost/json/value.hpp>

#include "absl/strings/str_cat.h"
#include "coordinator/http/parse_common.h"

namespace shoal::http {
namespace {

namespace json = boost::json;

enum class Harmless : uint8_t {
  kZero,  // 0
  kOne,   // 1
  kFalse,
  kEmpty,     // an empty array, object or string
  kNothing,   // no value but null
  kText,      // response_format {"type": "text"}
  kTextOnly,  // modalities ["text"]
  kNoChoice,  // "none" or "auto"
  kMedium,    // "medium"
};

enum class Where : uint8_t { kBoth, kChat, kCompletion };

constexpr struct {
  const char* name;
  Harmless harmless;
  Where where;
} kTable[] = {
    {"top_logprobs", Harmless::kZero, Where::kCompletion},
    {"echo", Harmless::kFalse, Where::kChat},
    {"suffix", Harmless::kEmpty, Where::kCompletion},
    {"length_penalty", Harmless::kOne, Where::kBoth},
    {"use_beam_search", Harmless::kFalse, Where::kBoth},
    {"logits_processors", Harmless::kEmpty, Where::kBoth},
    {"truncate_prompt_tokens", Harmless::kNothing, Where::kBoth},
    {"thinking_token_budget", Harmless::kNothing, Where::kBoth},
    {"prompt_embeds", Harmless::kNothing, Where::kBoth},
    {"return_token_ids", Harmless::kFalse, Where::kBoth},
    {"priority", Harmless::kZero, Where::kBoth},
    {"tools", Harmless::kEmpty, Where::kChat},
    {"tool_choice", Harmless::kNoChoice, Where::kChat},
    {"functions", Harmless::kEmpty, Where::kChat},
    {"function_call", Harmless::kNoChoice, Where::kChat},
    {"response_format", Harmless::kText, Where::kBoth},
    {"structured_outputs", Harmless::kEmpty, Where::kBoth},
    {"guided_json", Harmless::kNothing, Where::kBoth},
    {"guided_regex", Harmless::kNothing, Where::kBoth},
    {"guided_choice", Harmless::kNothing, Where::kBoth},
    {"guided_grammar", Harmless::kNothing, Where::kBoth},
    {"modalities", Harmless::kTextOnly, Where::kChat},
    {"audio", Harmless::kNothing, Where::kChat},
    {"web_search_options", Harmless::kNothing, Where::kChat},
    {"verbosity", Harmless::kMedium, Where::kChat},
    {"documents", Harmless::kEmpty, Where::kChat},
    {"chat_template", Harmless::kNothing, Where::kChat},
    {"continue_final_message", Harmless::kFalse, Where::kChat},
    {"add_special_tokens", Harmless::kFalse, Where::kChat},
};

bool IsNumber(const json::value& value, double number) {
  return value.is_number() && value.to_number<double>() == number;
}

bool IsString(const json::value& value, std::string_view text) {
  return value.is_string() && std::string_view(value.get_string().data(), value.get_string().size()) == text;
}

bool IsEmpty(const json::value& value) {
  if (const auto* array = value.if_array()) return array->empty();
  if (const auto* object = value.if_object()) return object->empty();
  if (const auto* string = value.if_string()) return string->empty();
  return false;
}

bool IsHarmless(const json::value& value, Harmless harmless) {
  switch (harmless) {
    case Harmless::kZero:
      return IsNumber(value, 0);
    case Harmless::kOne:
      return IsNumber(value, 1);
    case Harmless::kFalse:
      return value.is_bool() && !value.get_bool();
    case Harmless::kEmpty:
      return IsEmpty(value);
    case Harmless::kNothing:
      return false;
    case Harmless::kText: {
      const auto* object = value.if_object();
      const auto* type = object != nullptr ? object->if_contains("type") : nullptr;
      return type != nullptr && IsString(*type, "text");
    }
    case Harmless::kTextOnly: {
      const auto* array = value.if_array();
      return array != nullptr && (array->empty() || (array->size() == 1 && IsString(array->front(), "text")));
    }
    case Harmless::kNoChoice:
      return IsString(value, "none") || IsString(value, "auto");
    case Harmless::kMedium:
      return IsString(value, "medium");
  }
  return false;
}

}  // namespace

void RefuseUnsupported(bool chat, Fields* fields) {
  for (const auto& row : kTable) {
    if (row.where == (chat ? Where::kCompletion : Where::kChat)) continue;
    const json::value* value = fields->Find(row.name);
    if (value == nullptr || IsHarmless(*value, row.harmless)) continue;
    fields->Fail(ErrorKind::kUnsupportedParameter, row.name,
                 absl::StrCat("'", row.name, "' with this value is not supported by this server"));
    return;
  }
}

}  // namespace shoal::http
