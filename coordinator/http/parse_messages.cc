// Tested by: tests/http/bad_request_test.cc
// "messages" into what chat templates expect: plain string contents, known roles.
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include "absl/strings/str_cat.h"
#include "coordinator/http/parse_common.h"

namespace shoal::http {
namespace {

namespace json = boost::json;

// Templates know four roles. "developer" is OpenAI's newer word for "system", "function" its older one for "tool".
std::string_view TemplateRole(std::string_view role) {
  if (role == "developer") return "system";
  if (role == "function") return "tool";
  if (role == "system" || role == "user" || role == "assistant" || role == "tool") return role;
  return {};
}

// A content array: the texts of its parts, one below the other.
void JoinParts(const json::array& parts, Fields* message, std::string* text) {
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string name = absl::StrCat("content[", i, "]");
    const auto* part = parts[i].if_object();
    const auto* type = part != nullptr ? part->if_contains("type") : nullptr;
    if (type == nullptr || !type->is_string()) {
      return message->Fail(ErrorKind::kInvalidValue, name, "a content part must be an object with a 'type'");
    }
    const json::string& type_name = type->get_string();
    if (type_name != "text" && type_name != "refusal") {
      return message->Fail(ErrorKind::kUnsupportedParameter, absl::StrCat(name, ".type"),
                           absl::StrCat("content parts of type '", std::string(type_name.data(), type_name.size()),
                                        "' are not supported by this model: only 'text' is"));
    }
    const auto* value = part->if_contains(type_name);
    if (value == nullptr || !value->is_string()) {
      return message->Fail(ErrorKind::kInvalidValue, absl::StrCat(name, ".text"),
                           "a text part must carry its text as a string");
    }
    if (!text->empty()) *text += '\n';
    text->append(value->get_string().data(), value->get_string().size());
  }
}

void ParseContent(bool may_be_absent, Fields* message, std::string* text) {
  const json::value* content = message->Find("content");
  if (content == nullptr) {
    if (may_be_absent) return;
    return message->Fail(ErrorKind::kMissingParameter, "content", "this message needs a 'content'");
  }
  if (const auto* string = content->if_string()) {
    text->assign(string->data(), string->size());
  } else if (const auto* parts = content->if_array()) {
    JoinParts(*parts, message, text);
  } else {
    message->Fail(
        ErrorKind::kInvalidValue, "content",
        absl::StrCat("'content' must be a string or an array of parts, not ", std::string(JsonTypeName(*content))));
  }
}

std::optional<ApiError> ParseMessage(const json::object& source, size_t index, json::array* messages) {
  Fields message(source, absl::StrCat("messages[", index, "]."));
  std::string role;
  if (!message.String("role", &role)) {
    message.Fail(ErrorKind::kMissingParameter, "role", "every message needs a 'role'");
    return message.error();
  }
  const std::string_view known = TemplateRole(role);
  if (known.empty()) {
    message.Fail(ErrorKind::kInvalidValue, "role",
                 absl::StrCat("'", role, "' is not a role: use system, developer, user, assistant or tool"));
    return message.error();
  }
  std::string text;
  ParseContent(known == "assistant", &message, &text);
  if (!message.ok()) return message.error();
  json::object target;
  target["role"] = json::string_view(known.data(), known.size());
  target["content"] = text;
  for (const char* name : {"name", "tool_call_id", "tool_calls"}) {
    const json::value* value = message.Find(name);
    if (value != nullptr && !(value->is_array() && value->get_array().empty())) target[name] = *value;
  }
  messages->push_back(std::move(target));
  return std::nullopt;
}

}  // namespace

void ParseMessages(const json::object& body, const Limits& limits, Fields* fields, GenerationSpec* spec) {
  const json::value* value = fields->Find("messages");
  if (value == nullptr) {
    return fields->Fail(ErrorKind::kMissingParameter, "messages", "the request needs 'messages'");
  }
  const auto* source = value->if_array();
  if (source == nullptr || source->empty()) {
    return fields->Fail(ErrorKind::kInvalidValue, "messages", "'messages' must be a list with at least one message");
  }
  if (source->size() > limits.messages) {
    return fields->Fail(ErrorKind::kInvalidValue, "messages",
                        absl::StrCat("'messages' may have at most ", limits.messages, " entries"));
  }
  json::array messages;
  messages.reserve(source->size());
  for (size_t i = 0; i < source->size(); ++i) {
    const auto* message = (*source)[i].if_object();
    if (message == nullptr) {
      return fields->Fail(ErrorKind::kInvalidValue, absl::StrCat("messages[", i, "]"), "a message must be an object");
    }
    if (const auto error = ParseMessage(*message, i, &messages)) {
      return fields->Fail(error->kind, error->param, error->message);
    }
  }
  json::object context;
  if (const json::value* extra = fields->Find("chat_template_kwargs")) {
    if (!extra->is_object()) {
      return fields->Fail(ErrorKind::kInvalidValue, "chat_template_kwargs", "'chat_template_kwargs' must be an object");
    }
    context = extra->get_object();
  }
  if (const json::value* effort = body.if_contains("reasoning_effort"); effort != nullptr && effort->is_string()) {
    context["reasoning_effort"] = *effort;
  }
  bool add_generation_prompt = true;
  fields->Bool("add_generation_prompt", &add_generation_prompt);
  context["add_generation_prompt"] = add_generation_prompt;
  context["messages"] = std::move(messages);
  spec->context_json = json::serialize(context);
}

}  // namespace shoal::http
