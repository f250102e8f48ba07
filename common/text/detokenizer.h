// Token ids of one answer to text, as they come. One owner, one answer; not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/text/tokenizer.h"

namespace shoal::text {

// Emits only whole characters: a UTF-8 sequence split over tokens is held back until it is complete. Bytes that can
// never become a character turn into U+FFFD, as many as a standard decoder of the whole would give.
class Detokenizer {
 public:
  // at_text_start: the ids are a whole text, not the continuation of one; Tokenizer::leading_spaces() are taken away.
  Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool show_control, bool at_text_start = false);

  // The text that this token completes; may be empty.
  std::string Push(int32_t id);
  const std::shared_ptr<const Tokenizer>& tokenizer() const { return tokenizer_; }
  // A character has begun that further tokens may complete.
  bool holds() const { return !held_.empty(); }
  // The rest at the end of the answer. A sequence cut in the middle of a character is dropped, not shown broken.
  std::string Finish();

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  bool show_control_;
  int spaces_to_drop_;
  std::string held_;  // an incomplete UTF-8 sequence, at most 3 bytes
};

// Finds stop strings across token borders. Text that may be the start of a stop string is held back until it is
// decided. Linear in the text, whatever the stop strings are. Empty stop strings never match.
class StopMatcher {
 public:
  // include_stop: the matched stop string is part of the emitted text.
  StopMatcher(std::vector<std::string> stops, bool include_stop);

  struct Output {
    std::string text;     // safe to send
    bool stopped;         // a stop string was found; nothing after it is ever emitted
    int stop_index = -1;  // which one, when stopped: the one that ends first; among equals the longest
  };
  Output Push(std::string_view text);
  // What was held back, when the answer ends without a stop string.
  std::string Finish();

 private:
  struct Stop {
    std::string text;
    std::vector<uint32_t> failure;  // [i]: length of the longest proper border of text[0..i]
    size_t matched = 0;             // length of the longest beginning of `text` that the text so far ends with
  };

  // Takes one byte of text; the index of the stop string that it completes, or -1.
  int Step(char byte);

  std::vector<Stop> stops_;
  bool include_stop_;
  std::string held_;  // ends with the longest `matched` bytes of the text so far
  size_t sent_ = 0;   // bytes at the start of held_ that are already out; removed now and then, not each time
  bool stopped_ = false;
  int stop_index_ = -1;
};

}  // namespace shoal::text
