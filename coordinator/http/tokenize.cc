// Tested by: tests/http/routes_test.cc
#include "coordinator/http/tokenize.h"

#include "common/text/detokenizer.h"
#include "coordinator/http/json_writer.h"
#include "coordinator/http/parse_common.h"
#include "coordinator/http/prepare.h"

namespace shoal::http {
namespace {

namespace json = boost::json;

// Model, and either messages or a prompt.
std::optional<ApiError> ParseSource(std::string_view body, const Limits& limits, GenerationSpec* spec,
                                    bool* return_token_strs) {
  json::object object;
  if (auto error = ParseObject(body, limits.json_depth, &object)) return error;
  Fields fields(object, "");
  fields.String("model", &spec->model);
  fields.Bool("add_special_tokens", &spec->add_special_tokens);
  fields.Bool("return_token_strs", return_token_strs);
  const json::value* prompt = fields.Find("prompt");
  spec->chat = prompt == nullptr;
  if (spec->chat) {
    ParseMessages(object, limits, &fields, spec);
  } else if (prompt->is_string()) {
    ParsePrompt(*prompt, &fields, spec);
  } else {
    fields.Fail(ErrorKind::kInvalidValue, "prompt", "'prompt' must be a string");
  }
  return fields.error();
}

}  // namespace

Response TokenizeAnswer(std::string_view body, const Limits& limits, const ServedModel& model) {
  GenerationSpec spec;
  bool return_token_strs = false;
  if (auto error = ParseSource(body, limits, &spec, &return_token_strs)) return ErrorResponse(*error);
  if (auto error = CheckModelName(model, spec.model)) return ErrorResponse(*error);
  std::vector<int32_t> ids;
  if (auto error = EncodePrompt(spec, model, &ids)) return ErrorResponse(*error);
  std::string tokens, strings;
  for (const int32_t id : ids) {
    tokens += (tokens.empty() ? "" : ",") + std::to_string(id);
    if (!return_token_strs) continue;
    if (!strings.empty()) strings += ",";
    AppendJsonString(model.tokenizer->TokenBytes(id, true), &strings);
  }
  Response response;
  response.body = R"({"count":)" + std::to_string(ids.size()) + R"(,"max_model_len":)" +
                  std::to_string(model.max_model_len) + R"(,"tokens":[)" + tokens + R"(],"token_strs":)" +
                  (return_token_strs ? "[" + strings + "]" : "null") + "}";
  return response;
}

Response DetokenizeAnswer(std::string_view body, const Limits& limits, const ServedModel& model) {
  json::object object;
  if (auto error = ParseObject(body, limits.json_depth, &object)) return ErrorResponse(*error);
  Fields fields(object, "");
  std::string name;
  fields.String("model", &name);
  std::vector<int32_t> ids;
  if (const json::value* tokens = fields.Find("tokens")) {
    ParseTokenIds(*tokens, "tokens", std::numeric_limits<size_t>::max(), &fields, &ids);
  } else {
    fields.Fail(ErrorKind::kMissingParameter, "tokens", "the request needs 'tokens'");
  }
  if (!fields.ok()) return ErrorResponse(*fields.error());
  if (auto error = CheckModelName(model, name)) return ErrorResponse(*error);
  text::Detokenizer detokenizer(model.tokenizer, true);
  std::string text;
  for (const int32_t id : ids) text += detokenizer.Push(id);
  text += detokenizer.Finish();
  Response response;
  response.body = R"({"prompt":)";
  AppendJsonString(text, &response.body);
  response.body += "}";
  return response;
}

}  // namespace shoal::http
