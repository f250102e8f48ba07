// What a client asked for, checked as far as it can be without the model. Filled by parsing a body of
// /v1/chat/completions or /v1/completions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/plan/step_plan.h"
#include "coordinator/http/errors.h"
#include "coordinator/http/limits.h"

namespace shoal::http {

struct GenerationSpec {
  bool chat = false;
  std::string model;  // empty: whatever is served

  bool stream = false;
  bool include_usage = false;     // stream_options.include_usage
  bool continuous_usage = false;  // stream_options.continuous_usage_stats

  std::optional<int32_t> max_tokens;
  bool prompt_only = false;  // max_tokens 0 with echo: nothing is generated
  int32_t n = 1;
  plan::SamplingParams sampling;  // without bad_words, end_tokens and prompt_logprobs, see Prepare
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool include_stop = false;  // include_stop_str_in_output
  bool ignore_eos = false;
  bool skip_special_tokens = true;
  std::vector<std::string> bad_words;
  std::optional<int32_t> logprobs;         // so many top ones beside each token of the answer
  std::optional<int32_t> prompt_logprobs;  // of the prompt, in vLLM's shape
  bool echo = false;                       // completions: the prompt is in front of each text
  bool tokens_as_ids = false;              // return_tokens_as_token_ids

  std::string context_json;  // chat: what the template sees

  std::string prompt;               // completions: text ...
  std::vector<int32_t> prompt_ids;  // ... or ids, when not empty
  bool add_special_tokens = true;
};

// Nothing when the body is fine. Unknown fields are ignored; a known one with an effect that is not offered is an error
// that names it. null means absent.
std::optional<ApiError> ParseChat(std::string_view body, const Limits& limits, GenerationSpec* spec);
std::optional<ApiError> ParseCompletion(std::string_view body, const Limits& limits, GenerationSpec* spec);

}  // namespace shoal::http
