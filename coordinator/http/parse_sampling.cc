// Tested by: tests/http/bad_request_test.cc
// What shapes logits, how many answers there are, and the log-probabilities that go along. Ranges are OpenAI's where it
// has the field, else vLLM's.
#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "coordinator/http/generation_spec.h"
#include "coordinator/http/parse_common.h"

namespace shoal::http {
namespace {

namespace json = boost::json;

constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxChoices = 128;  // OpenAI's

void ParsePenalties(Fields* fields, plan::SamplingParams* sampling) {
  double repetition = 1, presence = 0, frequency = 0;
  // vLLM takes all above 0; these keep any logit finite.
  fields->Number("repetition_penalty", 0.01, 100, &repetition);
  fields->Number("presence_penalty", -2, 2, &presence);
  fields->Number("frequency_penalty", -2, 2, &frequency);
  sampling->repetition_penalty = static_cast<float>(repetition);
  sampling->presence_penalty = static_cast<float>(presence);
  sampling->frequency_penalty = static_cast<float>(frequency);
}

// {"token id": bias}
void ParseBiases(Fields* fields, std::vector<plan::TokenBias>* biases) {
  const json::value* value = fields->Find("logit_bias");
  if (value == nullptr) return;
  const auto fail = [&](const std::string& message) { fields->Fail(ErrorKind::kInvalidValue, "logit_bias", message); };
  const auto* object = value->if_object();
  if (object == nullptr) return fail("'logit_bias' must be an object from token ids to numbers");
  if (object->size() > plan::kMaxTokenBiases) {
    return fail(absl::StrCat("'logit_bias' may have at most ", plan::kMaxTokenBiases, " entries"));
  }
  for (const auto& [key, bias] : *object) {
    int32_t token = 0;
    if (!absl::SimpleAtoi(absl::string_view(key.data(), key.size()), &token) || token < 0) {
      return fail("a key of 'logit_bias' must be a token id");
    }
    const double number = bias.is_number() ? bias.to_number<double>() : 1e9;
    if (number < -100 || number > 100) return fail("a value of 'logit_bias' must be a number between -100 and 100");
    biases->push_back({token, static_cast<float>(number)});
  }
  const auto by_token = [](const plan::TokenBias& a, const plan::TokenBias& b) { return a.token < b.token; };
  std::sort(biases->begin(), biases->end(), by_token);
  const auto same = [](const plan::TokenBias& a, const plan::TokenBias& b) { return a.token == b.token; };
  if (std::adjacent_find(biases->begin(), biases->end(), same) != biases->end()) {
    fail("'logit_bias' names a token twice");
  }
}

void ParseAllowed(Fields* fields, std::vector<int32_t>* allowed) {
  const json::value* value = fields->Find("allowed_token_ids");
  if (value == nullptr) return;
  ParseTokenIds(*value, "allowed_token_ids", plan::kMaxAllowedTokens, fields, allowed);
  if (value->is_array() && value->get_array().empty()) {
    fields->Fail(ErrorKind::kInvalidValue, "allowed_token_ids", "'allowed_token_ids' must not be empty");
  }
  std::sort(allowed->begin(), allowed->end());
  allowed->erase(std::unique(allowed->begin(), allowed->end()), allowed->end());
}

void ParseBadWords(const Limits& limits, Fields* fields, std::vector<std::string>* words) {
  const json::value* value = fields->Find("bad_words");
  if (value == nullptr) return;
  const auto* list = value->if_array();
  if (list == nullptr || list->size() > limits.bad_words) {
    return fields->Fail(ErrorKind::kInvalidValue, "bad_words",
                        absl::StrCat("'bad_words' must be a list of at most ", limits.bad_words, " strings"));
  }
  for (size_t i = 0; i < list->size(); ++i) {
    const auto* text = (*list)[i].if_string();
    if (text == nullptr || text->empty() || text->size() > limits.stop_bytes) {
      return fields->Fail(ErrorKind::kInvalidValue, absl::StrCat("bad_words[", i, "]"),
                          absl::StrCat("a bad word must be a string of 1 to ", limits.stop_bytes, " bytes"));
    }
    words->emplace_back(text->data(), text->size());
  }
}

// best_of chose among more answers than it gave. vLLM gave it up; where it asks for no more than there are, it has no
// effect.
void ParseChoices(Fields* fields, GenerationSpec* spec) {
  int64_t n = 1, best_of = 0;
  fields->Integer("n", 1, kMaxChoices, &n);
  spec->n = static_cast<int32_t>(n);
  if (fields->Integer("best_of", 1, kMaxChoices, &best_of) && best_of != n) {
    fields->Fail(ErrorKind::kUnsupportedParameter, "best_of",
                 "'best_of' is supported only with the value of 'n': all answers are given");
  }
}

void ParseMinTokens(Fields* fields, GenerationSpec* spec) {
  int64_t value = 0;
  fields->Integer("min_tokens", 0, kInt32Max, &value);
  if (spec->max_tokens.has_value() && value > *spec->max_tokens) {
    fields->Fail(ErrorKind::kInvalidValue, "min_tokens",
                 absl::StrCat("'min_tokens' must not be above the limit of ", *spec->max_tokens, " tokens"));
  }
  spec->sampling.min_tokens = static_cast<int32_t>(value);
}

// Chat has a flag and a number, completions one number.
void ParseLogprobs(Fields* fields, GenerationSpec* spec) {
  int64_t top = 0;
  if (!spec->chat) {
    if (fields->Integer("logprobs", 0, plan::kMaxTopLogprobs, &top)) spec->logprobs = static_cast<int32_t>(top);
    return;
  }
  bool wanted = false;
  fields->Bool("logprobs", &wanted);
  fields->Integer("top_logprobs", 0, plan::kMaxTopLogprobs, &top);
  if (top > 0 && !wanted) {
    fields->Fail(ErrorKind::kInvalidValue, "top_logprobs", "'top_logprobs' needs 'logprobs' to be true");
  }
  if (wanted) spec->logprobs = static_cast<int32_t>(top);
}

void ParsePromptLogprobs(Fields* fields, GenerationSpec* spec) {
  int64_t top = 0;
  if (!fields->Integer("prompt_logprobs", 0, plan::kMaxTopLogprobs, &top)) return;
  spec->prompt_logprobs = static_cast<int32_t>(top);
  if (!spec->stream) return;
  fields->Fail(ErrorKind::kInvalidValue, "prompt_logprobs", "'prompt_logprobs' are not available with 'stream'");
}

}  // namespace

void ParseLogits(const Limits& limits, Fields* fields, GenerationSpec* spec) {
  ParsePenalties(fields, &spec->sampling);
  ParseBiases(fields, &spec->sampling.biases);
  ParseAllowed(fields, &spec->sampling.allowed_tokens);
  ParseBadWords(limits, fields, &spec->bad_words);
  ParseChoices(fields, spec);
  ParseMinTokens(fields, spec);
  ParseLogprobs(fields, spec);
  ParsePromptLogprobs(fields, spec);
  fields->Bool("return_tokens_as_token_ids", &spec->tokens_as_ids);
  if (spec->logprobs.has_value()) spec->sampling.logprobs = *spec->logprobs;
}

}  // namespace shoal::http
