#include "coordinator/http/prepare.h"

#include <sys/random.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace shoal::http {
namespace {

// Text errors are the client's, except for what says that this side is at fault.
ApiError TextError(const absl::Status& status, const std::string& param) {
  const bool theirs =
      status.code() == absl::StatusCode::kInvalidArgument || status.code() == absl::StatusCode::kResourceExhausted;
  return MakeError(theirs ? ErrorKind::kInvalidValue : ErrorKind::kInternal, std::string(status.message()),
                   theirs ? param : std::string());
}

std::optional<ApiError> EncodeChat(const GenerationSpec& spec, const ServedModel& model, std::vector<int32_t>* ids) {
  if (model.chat_template == nullptr) {
    return MakeError(ErrorKind::kInvalidValue, "this model has no chat template; use /v1/completions with a prompt",
                     "messages");
  }
  auto pieces = model.chat_template->Render(spec.context_json);
  if (!pieces.ok()) return TextError(pieces.status(), "messages");
  for (const auto& piece : *pieces) {
    // The template itself writes the bos token where the model wants one.
    auto part = model.tokenizer->Encode(
        piece.text, piece.plain ? text::Tokenizer::Mode::kPlain : text::Tokenizer::Mode::kWithControl, false);
    if (!part.ok()) return TextError(part.status(), "messages");
    ids->insert(ids->end(), part->begin(), part->end());
  }
  return std::nullopt;
}

std::optional<ApiError> EncodeText(const GenerationSpec& spec, const ServedModel& model, std::vector<int32_t>* ids) {
  if (spec.prompt_ids.empty()) {
    auto encoded =
        model.tokenizer->Encode(spec.prompt, text::Tokenizer::Mode::kPlain, spec.add_special_tokens && model.add_bos);
    if (!encoded.ok()) return TextError(encoded.status(), "prompt");
    *ids = std::move(*encoded);
    return std::nullopt;
  }
  *ids = spec.prompt_ids;
  return std::nullopt;
}

// OpenAI's wording: clients look for "maximum context length".
ApiError ContextError(const GenerationSpec& spec, int64_t limit, int64_t prompt, int64_t completion) {
  const char* what = spec.chat ? "messages" : "prompt";
  return MakeError(ErrorKind::kContextLength,
                   absl::StrCat("This model's maximum context length is ", limit, " tokens. However, you requested ",
                                prompt + completion, " tokens (", prompt, " in the ", what, ", ", completion,
                                " in the completion). Please reduce the length of the ", what,
                                spec.max_tokens ? " or completion." : "."),
                   what);
}

// The word as it is and behind a space, since most vocabularies have tokens of their own for that. Where the space is a
// token of its own, the first one says all. vLLM leaves the second one out as well where it has fewer tokens or more,
// and then the word comes.
std::optional<ApiError> EncodeBadWords(const GenerationSpec& spec, const ServedModel& model,
                                       std::vector<std::vector<int32_t>>* words) {
  for (size_t i = 0; i < spec.bad_words.size(); ++i) {
    const std::string param = absl::StrCat("bad_words[", i, "]");
    std::string_view word = spec.bad_words[i];
    word.remove_prefix(std::min(word.size(), word.find_first_not_of(" \t\n\r")));
    std::vector<int32_t> plain;
    for (const char* before : {"", " "}) {
      auto ids = model.tokenizer->Encode(absl::StrCat(before, std::string(word)), text::Tokenizer::Mode::kPlain, false);
      if (!ids.ok()) return TextError(ids.status(), param);
      const bool first = before[0] == 0;
      if (first && ids->empty()) return MakeError(ErrorKind::kInvalidValue, "a bad word has no tokens", param);
      if (ids->size() > plan::kMaxBadWordTokens) {
        return MakeError(ErrorKind::kInvalidValue,
                         absl::StrCat("a bad word may have at most ", plan::kMaxBadWordTokens, " tokens"), param);
      }
      if (first) plain = *ids;
      if (!first && ids->size() >= plain.size() && std::equal(plain.rbegin(), plain.rend(), ids->rbegin())) continue;
      const auto never = [&](int32_t id) { return id < 0 || id >= model.vocab; };
      if (std::none_of(ids->begin(), ids->end(), never)) words->push_back(*std::move(ids));
    }
  }
  return std::nullopt;
}

// What can never be generated together with everything else that is asked for leaves at least one token.
std::optional<ApiError> CheckAllowed(const plan::SamplingParams& s, const ServedModel& model) {
  std::vector<int32_t> never = s.end_tokens;
  for (const std::vector<int32_t>& word : s.bad_words) never.push_back(word.back());
  std::sort(never.begin(), never.end());
  never.erase(std::unique(never.begin(), never.end()), never.end());
  const auto count = static_cast<size_t>(
      std::count_if(never.begin(), never.end(), [&](int32_t id) { return id >= 0 && id < model.vocab; }));
  const auto forbidden = [&](int32_t id) { return std::binary_search(never.begin(), never.end(), id); };
  const std::vector<int32_t>& allowed = s.allowed_tokens;
  const bool none = allowed.empty() ? count >= static_cast<size_t>(model.vocab)
                                    : std::all_of(allowed.begin(), allowed.end(), forbidden);
  if (!none) return std::nullopt;
  return MakeError(ErrorKind::kInvalidValue, "'bad_words' and 'min_tokens' may forbid every token that is allowed",
                   allowed.empty() ? "bad_words" : "allowed_token_ids");
}

// Of what shapes logits: ids that the model has.
std::optional<ApiError> CheckIds(const plan::SamplingParams& s, const ServedModel& model) {
  const auto outside = [&](int32_t id, const char* param) {
    return MakeError(ErrorKind::kInvalidValue,
                     absl::StrCat("token id ", id, " is outside of the vocabulary of ", model.vocab), param);
  };
  // Both are by ascending id.
  if (!s.biases.empty() && s.biases.back().token >= model.vocab) return outside(s.biases.back().token, "logit_bias");
  if (!s.allowed_tokens.empty() && s.allowed_tokens.back() >= model.vocab) {
    return outside(s.allowed_tokens.back(), "allowed_token_ids");
  }
  return std::nullopt;
}

// Log-probabilities, top ones included, that an answer may hold: some 65 bytes of JSON each.
constexpr int64_t kMaxPromptScores = 1 << 20, kMaxAnswerScores = 1 << 22;

// The prompt's stand in each choice of a completion. `prompt`, `answer`: tokens, the latter of one choice.
std::optional<ApiError> CheckScores(const GenerationSpec& spec, int64_t prompt, int64_t answer) {
  const auto of = [](std::optional<int32_t> tops) { return tops.has_value() ? 1 + int64_t{*tops} : 0; };
  const int64_t n = spec.n;
  const auto refused = [](const char* param, int64_t scores, int64_t most) {
    return MakeError(ErrorKind::kInvalidValue,
                     absl::StrCat("the answer would hold ", scores, " log-probabilities, of at most ", most,
                                  ": ask for ", "fewer with '", param, "', 'n' or 'max_tokens'"),
                     param);
  };
  const int64_t told = prompt * of(spec.prompt_logprobs) * (spec.chat ? 1 : n);
  if (told > kMaxPromptScores) return refused("prompt_logprobs", told, kMaxPromptScores);
  const int64_t echoed = spec.echo ? prompt * of(spec.logprobs) * n : 0;
  if (echoed > kMaxPromptScores) return refused("logprobs", echoed, kMaxPromptScores);
  const int64_t generated = spec.stream ? 0 : answer * of(spec.logprobs) * n;
  if (generated > kMaxAnswerScores) return refused("logprobs", generated, kMaxAnswerScores);
  return std::nullopt;
}

std::optional<ApiError> PrepareSampling(const GenerationSpec& spec, const ServedModel& model,
                                        core::GenerateRequest* request) {
  plan::SamplingParams& s = request->sampling;
  s = spec.sampling;
  if (auto error = CheckIds(s, model)) return error;
  if (auto error = EncodeBadWords(spec, model, &s.bad_words)) return error;
  if (s.min_tokens > 0) {
    s.end_tokens = request->stop_tokens;
    std::erase_if(s.end_tokens, [&](int32_t id) { return id < 0 || id >= model.vocab; });
    std::sort(s.end_tokens.begin(), s.end_tokens.end());
    s.end_tokens.erase(std::unique(s.end_tokens.begin(), s.end_tokens.end()), s.end_tokens.end());
  }
  if (auto error = CheckAllowed(s, model)) return error;
  const bool scored_echo = spec.echo && spec.logprobs.has_value();
  s.prompt_logprobs = std::max(spec.prompt_logprobs.value_or(-1), scored_echo ? *spec.logprobs : -1);
  return std::nullopt;
}

}  // namespace

std::optional<ApiError> EncodePrompt(const GenerationSpec& spec, const ServedModel& model, std::vector<int32_t>* ids) {
  if (auto error = spec.chat ? EncodeChat(spec, model, ids) : EncodeText(spec, model, ids)) return error;
  const char* param = spec.chat ? "messages" : "prompt";
  if (ids->empty()) return MakeError(ErrorKind::kInvalidValue, "the prompt has no tokens", param);
  // Also for ids from the tokenizer: some models have tokens in it that they have no embedding for.
  const auto outside = std::find_if(ids->begin(), ids->end(), [&](int32_t id) { return id < 0 || id >= model.vocab; });
  if (outside != ids->end()) {
    return MakeError(ErrorKind::kInvalidValue,
                     absl::StrCat("token id ", *outside, " is outside of the vocabulary of ", model.vocab),
                     spec.prompt_ids.empty() ? param : absl::StrCat("prompt[", outside - ids->begin(), "]"));
  }
  return std::nullopt;
}

std::optional<ApiError> Prepare(const GenerationSpec& spec, const ServedModel& model, core::GenerateRequest* request) {
  if (auto error = EncodePrompt(spec, model, &request->prompt)) return error;
  const int64_t prompt = static_cast<int64_t>(request->prompt.size());
  const int64_t limit = model.max_model_len;
  const int64_t wanted = spec.max_tokens.value_or(1);
  if (prompt + wanted > limit) return ContextError(spec, limit, prompt, wanted);
  request->max_tokens = spec.max_tokens.value_or(static_cast<int32_t>(limit - prompt));
  if (spec.sampling.min_tokens > request->max_tokens) {
    return MakeError(ErrorKind::kInvalidValue,
                     absl::StrCat("'min_tokens' is more than the ", request->max_tokens, " tokens that fit"),
                     "min_tokens");
  }
  if (auto error = CheckScores(spec, prompt, request->max_tokens)) return error;
  request->n = spec.n;
  if (spec.n > model.max_num_seqs) {
    return MakeError(ErrorKind::kInvalidValue,
                     absl::StrCat("'n' may be at most ", model.max_num_seqs, " on this server"), "n");
  }
  request->stop_tokens = spec.stop_token_ids;
  if (!spec.ignore_eos) {
    request->stop_tokens.insert(request->stop_tokens.end(), model.eos_tokens.begin(), model.eos_tokens.end());
  }
  if (auto error = PrepareSampling(spec, model, request)) return error;
  if (spec.seed.has_value()) {
    request->sampling.seed = *spec.seed;
  } else {
    SHOAL_CHECK(getrandom(&request->sampling.seed, sizeof request->sampling.seed, 0) ==
                static_cast<ssize_t>(sizeof request->sampling.seed));
  }
  return std::nullopt;
}

std::optional<ApiError> CheckModelName(const ServedModel& model, const std::string& name) {
  if (name.empty() || std::find(model.names.begin(), model.names.end(), name) != model.names.end()) return std::nullopt;
  return MakeError(ErrorKind::kModelNotFound,
                   absl::StrCat("The model '", name, "' does not exist; this server has '",
                                model.names.empty() ? std::string() : model.names.front(), "'"),
                   "model");
}

}  // namespace shoal::http
