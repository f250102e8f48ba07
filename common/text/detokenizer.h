// Token ids of one answer to text, as they come. One owner, one answer; not thread-safe.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/text/tokenizer.h"

namespace shoal::text {

// Emits only whole characters: a UTF-8 sequence split over tokens is held back until it is complete. Bytes that can never
// become a character turn into U+FFFD, as many as a standard decoder of the whole would give.
class Detokenizer {
 public:
  Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool show_control);

  // The text that this token completes; may be empty.
  std::string Push(int32_t id);
  // The rest at the end of the answer. A sequence cut in the middle of a character is dropped, not shown broken.
  std::string Finish();

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  bool show_control_;
  std::string held_;  // an incomplete UTF-8 sequence, at most 3 bytes
};

// Finds stop strings across token borders. Text that may be the start of a stop string is held back until it is decided.
class StopMatcher {
 public:
  // include_stop: the matched stop string is part of the emitted text.
  StopMatcher(std::vector<std::string> stops, bool include_stop);

  struct Output {
    std::string text;   // safe to send
    bool stopped;       // a stop string was found; nothing after it is ever emitted
    int stop_index;     // which one, when stopped: the one that ends first; among equals the longest
  };
  Output Push(std::string_view text);
  // What was held back, when the answer ends without a stop string.
  std::string Finish();

 private:
  std::vector<std::string> stops_;
  bool include_stop_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace shoal::text
