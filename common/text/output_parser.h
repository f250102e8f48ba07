// What a model's answer says, as it comes: thoughts, calls of tools, plain content. Pure: text in, events out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/text/output_format.h"

namespace shoal::text {

// A run of the answer's text. Events of one kind and call that follow each other are one run, cut anywhere.
struct OutputEvent {
  enum class Kind : uint8_t { kContent, kReasoning, kCallBegins, kArguments };
  Kind kind;
  int call = -1;     // kCallBegins, kArguments: which call, from 0 on; calls do not interleave
  std::string text;  // kCallBegins: the whole name of the function
};

// One answer; one owner; not thread-safe. Never fails: what is no call after all is content, complete and in order. The
// runs depend on the answer alone, not on how it was cut into pieces. No event cuts a character that the pieces did
// not. Feed it with text that shows control tokens: most markers are some.
//
// Reasoning is what stands in the thought markers at the beginning of the answer. A marker further on is content; a
// call within a thought is a thought. Newlines right after a marker belong to it (templates write them), so that
// content does not begin with them; vLLM keeps them.
//
// Calls: see ToolFormat. A call begins when its name is known and its arguments begin. Up to there its text is held
// back, from there on its arguments come as the model wrote them, white space and mistakes included, with two
// exceptions: a JSON string that holds an object is unwrapped, and missing, null or empty-string arguments are {}. If
// the answer ends within a call, the call keeps what came. Text before the first call is content as it stands, but for
// white space alone. After a call, white space is dropped and other text is content; vLLM drops that, or, by version,
// only when not streaming.
//
// Time is linear in the answer, whatever the pieces. Memory: at most kMaxHeld bytes are held back, and
// kMaxHeldArguments where arguments come before the name; what needs more is content. Depth is counted, not stored.
class OutputParser {
 public:
  static constexpr size_t kMaxHeld = 4096;  // room for a name, an id, a description; far above what models write
  static constexpr size_t kMaxHeldArguments = 256 * 1024;  // a file that a call writes

  explicit OutputParser(const OutputFormat& format);
  ~OutputParser();
  OutputParser(const OutputParser&) = delete;
  OutputParser& operator=(const OutputParser&) = delete;

  // The answer goes on. Adds to *events; a run may go on in the last event that is there.
  void Push(std::string_view piece, std::vector<OutputEvent>* events);
  // The answer has ended: what was held back is content.
  void Finish(std::vector<OutputEvent>* events);

  // Calls that have begun.
  int calls() const;
  // Bytes looked at, again each time that one is looked at again; at most a small multiple of the answer's length.
  int64_t steps() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace shoal::text
