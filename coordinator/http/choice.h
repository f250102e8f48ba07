// One choice of an answer while it is made: its tokens in, the text that may be shown out, with the log-probabilities
// of the tokens that this text is made of. One owner; not thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "common/plan/step_plan.h"
#include "common/text/detokenizer.h"
#include "coordinator/http/generation_spec.h"
#include "coordinator/http/logprob_format.h"

namespace shoal::http {

class Choice {
 public:
  // `spec` outlives it.
  Choice(const GenerationSpec& spec, std::shared_ptr<const text::Tokenizer> tokenizer);

  // What the prompt adds in front, with `echo`. `logprobs`: empty, or of its second token and on.
  void Echo(const std::vector<int32_t>& prompt, const std::string& text, std::vector<plan::TokenLogprobs> logprobs);
  // One token; `logprobs` has it, or is null. Nothing is taken any more once a stop string has ended the choice.
  void Push(int32_t token, const plan::TokenLogprobs* logprobs);
  // There are no more: a character that has begun and not ended is dropped.
  void End();

  // What may be shown now and was not taken yet.
  struct Piece {
    std::string text;
    std::vector<ScoredToken> tokens;
  };
  Piece Take();

  bool stopped() const { return stop_ >= 0; }
  const std::string& stop() const { return spec_.stop[static_cast<size_t>(stop_)]; }  // precondition: stopped()
  int32_t tokens() const { return tokens_; }                                          // up to the end of a stop string

  bool done = false;  // its end is known to the client, or nobody waits for it any more

 private:
  // A token whose text is not out yet: it lies at bytes [begin, end) of all text.
  struct Held {
    ScoredToken token;
    size_t begin, end;
  };
  void Release(bool all);

  const GenerationSpec& spec_;
  text::Detokenizer detokenizer_;
  text::StopMatcher stops_;
  Piece piece_;
  std::deque<Held> held_;
  size_t bytes_in_ = 0, bytes_out_ = 0;
  int32_t characters_in_ = 0;
  int32_t tokens_ = 0;
  int stop_ = -1;
};

}  // namespace shoal::http
