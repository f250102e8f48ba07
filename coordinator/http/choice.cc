// Tested by: tests/http/logprobs_test.cc
#include "coordinator/http/choice.h"

#include <utility>

namespace shoal::http {

Choice::Choice(const GenerationSpec& spec, std::shared_ptr<const text::Tokenizer> tokenizer)
    : spec_(spec),
      detokenizer_(std::move(tokenizer), !spec.skip_special_tokens),
      stops_(spec.stop, spec.include_stop) {}

void Choice::Echo(const std::vector<int32_t>& prompt, const std::string& text,
                  std::vector<plan::TokenLogprobs> logprobs) {
  piece_.text = text;
  if (!spec_.logprobs.has_value()) {
    characters_in_ = Characters(text);
    return;
  }
  text::Detokenizer pieces(detokenizer_.tokenizer(), !spec_.skip_special_tokens, /*at_text_start=*/true);
  for (size_t i = 0; i < prompt.size(); ++i) {
    ScoredToken token;
    token.token = prompt[i];
    token.offset = characters_in_;
    if (i > 0 && i <= logprobs.size()) token.logprobs = std::move(logprobs[i - 1]);
    characters_in_ += Characters(pieces.Push(prompt[i]));
    piece_.tokens.push_back(std::move(token));
  }
}

void Choice::Push(int32_t token, const plan::TokenLogprobs* logprobs) {
  if (stopped()) return;
  const std::string text = detokenizer_.Push(token);
  if (logprobs != nullptr) {
    // What has only begun a character is shown with the text that completes it.
    held_.push_back({{token, characters_in_, *logprobs}, bytes_in_, bytes_in_ + text.size() + detokenizer_.holds()});
  }
  bytes_in_ += text.size();
  characters_in_ += Characters(text);
  // Before that many tokens nothing ends an answer.
  if (++tokens_ <= spec_.sampling.min_tokens) {
    piece_.text += text;
    bytes_out_ += text.size();
    return Release(false);
  }
  text::StopMatcher::Output out = stops_.Push(text);
  bytes_out_ += out.text.size();
  piece_.text += out.text;
  if (out.stopped) stop_ = out.stop_index;
  Release(false);
}

void Choice::End() {
  if (stopped()) return;
  const std::string rest = stops_.Finish();
  bytes_out_ += rest.size();
  piece_.text += rest;
  Release(true);
}

// Of text behind a stop string nothing is shown, nor the tokens that it alone is made of.
void Choice::Release(bool all) {
  while (!held_.empty()) {
    const Held& next = held_.front();
    const bool out = stopped() ? next.begin < bytes_out_ : next.end <= bytes_out_;
    if (!all && !out) break;
    piece_.tokens.push_back(std::move(held_.front().token));
    held_.pop_front();
  }
}

Choice::Piece Choice::Take() { return std::exchange(piece_, {}); }

}  // namespace shoal::http
