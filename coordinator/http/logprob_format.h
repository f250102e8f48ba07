// Log-probabilities as clients read them, appended as JSON. Thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/plan/step_plan.h"
#include "common/text/tokenizer.h"

namespace shoal::http {

// A token of an answer.
struct ScoredToken {
  int32_t token = 0;
  int32_t offset = 0;                           // where its text begins, in characters of the choice's text
  std::optional<plan::TokenLogprobs> logprobs;  // none: the first token of an echoed prompt
};

struct LogprobFormat {
  const text::Tokenizer* tokenizer;
  bool as_ids = false;  // "token_id:5" instead of text (vLLM's return_tokens_as_token_ids)
  // Of the top ones, those that were asked for here: more may be known, for another part of the answer.
  int32_t tops = plan::kMaxTopLogprobs;
};

// OpenAI's shape of chat: {"content":[{"token","logprob","bytes","top_logprobs":[...]}],"refusal":null}.
void AppendChatLogprobs(const std::vector<ScoredToken>& tokens, const LogprobFormat& format, std::string* out);
// The shape of completions: {"text_offset","token_logprobs","tokens","top_logprobs"}, a list each. The dictionaries
// have the token itself, too, when it is not among the top ones. What is no text of its own is "bytes:\\xe2\\x80".
void AppendCompletionLogprobs(const std::vector<ScoredToken>& tokens, const LogprobFormat& format, std::string* out);
// vLLM's prompt_logprobs: [null,{"5":{"logprob","rank","decoded_token"},...},...], for each token of the prompt.
void AppendPromptLogprobs(const std::vector<plan::TokenLogprobs>& tokens, const LogprobFormat& format,
                          std::string* out);

// Code points of valid UTF-8.
int32_t Characters(std::string_view text);

}  // namespace shoal::http
