#include "coordinator/http/prepare.h"

#include <sys/random.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace shoal::http {
namespace {

// Text errors are the client's, except for what says that this side is at fault.
ApiError TextError(const absl::Status& status, const char* param) {
  const bool theirs =
      status.code() == absl::StatusCode::kInvalidArgument || status.code() == absl::StatusCode::kResourceExhausted;
  return MakeError(theirs ? ErrorKind::kInvalidValue : ErrorKind::kInternal, std::string(status.message()),
                   theirs ? param : "");
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
  request->sampling = spec.sampling;
  if (spec.seed.has_value()) {
    request->sampling.seed = *spec.seed;
  } else {
    SHOAL_CHECK(getrandom(&request->sampling.seed, sizeof request->sampling.seed, 0) ==
                static_cast<ssize_t>(sizeof request->sampling.seed));
  }
  request->stop_tokens = spec.stop_token_ids;
  if (!spec.ignore_eos) {
    request->stop_tokens.insert(request->stop_tokens.end(), model.eos_tokens.begin(), model.eos_tokens.end());
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
