// Tested by: tests/http/bad_request_test.cc
#include <algorithm>
#include <boost/json/array.hpp>
#include <cstdint>
#include <limits>

#include "absl/strings/str_cat.h"
#include "coordinator/http/generation_spec.h"
#include "coordinator/http/parse_common.h"

namespace shoal::http {
namespace {

namespace json = boost::json;

constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();

void ParseStreaming(Fields* fields, GenerationSpec* spec) {
  fields->Bool("stream", &spec->stream);
  const json::value* options = fields->Find("stream_options");
  if (options == nullptr) return;
  if (!options->is_object()) {
    return fields->Fail(ErrorKind::kInvalidValue, "stream_options", "'stream_options' must be an object");
  }
  if (!spec->stream) {
    return fields->Fail(ErrorKind::kInvalidValue, "stream_options",
                        "'stream_options' is only allowed when 'stream' is true");
  }
  Fields nested(options->get_object(), "stream_options.");
  nested.Bool("include_usage", &spec->include_usage);
  nested.Bool("continuous_usage_stats", &spec->continuous_usage);
  if (!nested.ok()) fields->Fail(nested.error()->kind, nested.error()->param, nested.error()->message);
}

void AddStop(const json::value& value, std::string_view name, const Limits& limits, Fields* fields,
             GenerationSpec* spec) {
  const auto* text = value.if_string();
  if (text == nullptr) {
    return fields->Fail(ErrorKind::kInvalidValue, name, "'stop' must be a string or a list of strings");
  }
  if (text->empty() || text->size() > limits.stop_bytes) {
    return fields->Fail(ErrorKind::kInvalidValue, name,
                        absl::StrCat("a stop string must have between 1 and ", limits.stop_bytes, " bytes"));
  }
  spec->stop.emplace_back(text->data(), text->size());
}

void ParseStop(const Limits& limits, Fields* fields, GenerationSpec* spec) {
  if (const json::value* stop = fields->Find("stop")) {
    if (const auto* list = stop->if_array()) {
      if (list->size() > limits.stops) {
        return fields->Fail(ErrorKind::kInvalidValue, "stop",
                            absl::StrCat("'stop' may have at most ", limits.stops, " entries"));
      }
      for (size_t i = 0; i < list->size(); ++i) {
        AddStop((*list)[i], absl::StrCat("stop[", i, "]"), limits, fields, spec);
      }
    } else {
      AddStop(*stop, "stop", limits, fields, spec);
    }
  }
  if (const json::value* ids = fields->Find("stop_token_ids")) {
    ParseTokenIds(*ids, "stop_token_ids", limits.stop_token_ids, fields, &spec->stop_token_ids);
  }
}

// max_completion_tokens wins over max_tokens. A prompt that is echoed may be all that is wanted.
void ParseMaxTokens(Fields* fields, GenerationSpec* spec) {
  if (!spec->chat) fields->Bool("echo", &spec->echo);
  int64_t value = 0;
  if (fields->Integer("max_tokens", spec->echo ? 0 : 1, kInt32Max, &value)) {
    spec->prompt_only = value == 0;
    spec->max_tokens = std::max(1, static_cast<int32_t>(value));
  }
  if (spec->chat && fields->Integer("max_completion_tokens", 1, kInt32Max, &value)) {
    spec->max_tokens = static_cast<int32_t>(value);
  }
}

}  // namespace

void ParseTokenIds(const json::value& value, std::string_view name, size_t limit, Fields* fields,
                   std::vector<int32_t>* ids) {
  const auto* list = value.if_array();
  if (list == nullptr) {
    return fields->Fail(ErrorKind::kInvalidValue, name,
                        absl::StrCat("'", std::string(name), "' must be a list of token ids"));
  }
  if (list->size() > limit) {
    return fields->Fail(ErrorKind::kInvalidValue, name,
                        absl::StrCat("'", std::string(name), "' may have at most ", limit, " entries"));
  }
  ids->reserve(list->size());
  for (size_t i = 0; i < list->size(); ++i) {
    const std::optional<int64_t> id = Fields::AsInteger((*list)[i]);
    if (!id.has_value() || *id < 0 || *id > kInt32Max) {
      return fields->Fail(ErrorKind::kInvalidValue, absl::StrCat(std::string(name), "[", i, "]"),
                          "a token id must be an integer that is not negative");
    }
    ids->push_back(static_cast<int32_t>(*id));
  }
}

void ParseSampling(const Limits& limits, Fields* fields, GenerationSpec* spec) {
  fields->String("model", &spec->model);
  if (spec->model.size() > limits.model_name_bytes) {
    fields->Fail(ErrorKind::kInvalidValue, "model",
                 absl::StrCat("'model' may have at most ", limits.model_name_bytes, " bytes"));
  }
  ParseStreaming(fields, spec);
  ParseMaxTokens(fields, spec);
  double temperature = 1, top_p = 1, min_p = 0;
  fields->Number("temperature", 0, 2, &temperature);
  fields->Number("top_p", 0, 1, &top_p);
  if (top_p == 0) fields->Fail(ErrorKind::kInvalidValue, "top_p", "'top_p' must be above 0 and at most 1");
  fields->Number("min_p", 0, 1, &min_p);
  int64_t top_k = 0;
  fields->Integer("top_k", -1, kInt32Max, &top_k);
  spec->sampling.temperature = static_cast<float>(temperature);
  spec->sampling.top_p = static_cast<float>(top_p);
  spec->sampling.min_p = static_cast<float>(min_p);
  spec->sampling.top_k = top_k < 0 ? 0 : static_cast<int32_t>(top_k);  // vLLM says -1 for all
  int64_t seed = 0;
  if (fields->Integer("seed", std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max(), &seed)) {
    spec->seed = static_cast<uint64_t>(seed);
  }
  ParseStop(limits, fields, spec);
  fields->Bool("include_stop_str_in_output", &spec->include_stop);
  fields->Bool("ignore_eos", &spec->ignore_eos);
  fields->Bool("skip_special_tokens", &spec->skip_special_tokens);
}

void ParsePrompt(const json::value& prompt, Fields* fields, GenerationSpec* spec) {
  constexpr char kShape[] = "'prompt' must be a string, a list with one string, or a list of token ids";
  if (const auto* text = prompt.if_string()) {
    spec->prompt.assign(text->data(), text->size());
    return;
  }
  const auto* list = prompt.if_array();
  if (list == nullptr || list->empty()) return fields->Fail(ErrorKind::kInvalidValue, "prompt", kShape);
  const json::value& first = list->front();
  if (Fields::AsInteger(first).has_value()) {
    return ParseTokenIds(prompt, "prompt", std::numeric_limits<size_t>::max(), fields, &spec->prompt_ids);
  }
  if (!first.is_string() && !first.is_array()) return fields->Fail(ErrorKind::kInvalidValue, "prompt", kShape);
  if (list->size() > 1) {
    return fields->Fail(ErrorKind::kUnsupportedParameter, "prompt",
                        "only one prompt per request is supported; send one request for each");
  }
  if (first.is_array() && (first.get_array().empty() || first.get_array().front().is_array())) {
    return fields->Fail(ErrorKind::kInvalidValue, "prompt", kShape);
  }
  if (first.is_array()) {
    return ParseTokenIds(first, "prompt[0]", std::numeric_limits<size_t>::max(), fields, &spec->prompt_ids);
  }
  spec->prompt.assign(first.get_string().data(), first.get_string().size());
}

std::optional<ApiError> ParseChat(std::string_view body, const Limits& limits, GenerationSpec* spec) {
  json::object object;
  if (auto error = ParseObject(body, limits.json_depth, &object)) return error;
  Fields fields(object, "");
  spec->chat = true;
  ParseSampling(limits, &fields, spec);
  ParseLogits(limits, &fields, spec);
  RefuseUnsupported(true, &fields);
  ParseMessages(object, limits, &fields, spec);
  return fields.error();
}

std::optional<ApiError> ParseCompletion(std::string_view body, const Limits& limits, GenerationSpec* spec) {
  json::object object;
  if (auto error = ParseObject(body, limits.json_depth, &object)) return error;
  Fields fields(object, "");
  ParseSampling(limits, &fields, spec);
  if (!spec->max_tokens.has_value()) spec->max_tokens = 16;  // OpenAI's default for this route
  ParseLogits(limits, &fields, spec);
  RefuseUnsupported(false, &fields);
  fields.Bool("add_special_tokens", &spec->add_special_tokens);
  if (const json::value* prompt = fields.Find("prompt")) {
    ParsePrompt(*prompt, &fields, spec);
  } else {
    fields.Fail(ErrorKind::kMissingParameter, "prompt", "the request needs a 'prompt'");
  }
  return fields.error();
}

}  // namespace shoal::http
