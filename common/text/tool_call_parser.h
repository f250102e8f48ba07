// Tells calls of tools from content, byte by byte; what holds is said at OutputParser. One answer, one owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/text/call_object.h"
#include "common/text/marker_matcher.h"
#include "common/text/output_parser.h"

namespace shoal::text {

// Adds a run of text: to the last event when that is of this kind and call, else as a new one.
void AddText(OutputEvent::Kind kind, int call, std::string_view text, std::vector<OutputEvent>* events);

struct ToolSyntax;

// A frame is a marker and the calls after it. Calls are objects, in a list or not, with any separators; Mistral's may
// be a name and its arguments. A frame without a first call is content as a whole, its marker included.
class ToolCallParser {
 public:
  explicit ToolCallParser(ToolFormat format);

  void Push(char byte, std::vector<OutputEvent>* events);
  void Finish(std::vector<OutputEvent>* events);

  int calls() const { return calls_; }
  int64_t steps() const { return steps_; }

 private:
  enum class State : uint8_t {
    kText,       // outside of a frame
    kBetween,    // in a frame: before, between and after calls
    kObject,     // a call, or what may become one
    kName,       // Mistral: the name after the marker
    kAfterName,  // Mistral: up to the arguments' brace
    kMark,       // Mistral: within [ARGS] or [CALL_ID]
    kArguments,  // Mistral: within the arguments
  };

  // Each takes the byte, or returns false when it has changed the state and the byte belongs to the next.
  bool Take(char byte);
  bool TakeText(char byte);
  bool TakeBetween(char byte);
  bool TakeObject(char byte);
  bool TakeName(char byte);
  bool TakeAfterName(char byte);
  bool TakeMark(char byte);
  bool TakeArguments(char byte);

  void OpenFrame(std::string_view marker, bool strict);
  bool LeaveFrame();
  bool Reject();  // what is held is content; the frame is over
  void Hold(char byte);
  void BeginCall(const std::string& name);
  void AddArguments();
  void AddContent(std::string_view text);

  const ToolSyntax& syntax_;
  MarkerMatcher markers_, marks_;
  State state_ = State::kText;
  std::vector<OutputEvent>* events_ = nullptr;  // of the Push or Finish that runs
  int calls_ = 0;
  int64_t steps_ = 0;

  bool text_begun_ = false;       // something other than white space came, or a call
  bool after_call_ = false;       // white space is dropped
  bool closer_expected_ = false;  // the frame before was left without its end marker
  std::string leading_;           // white space at the beginning of the answer, not yet sent

  bool strict_ = false;  // this frame has no marker
  bool called_ = false;  // it has a call
  bool in_list_ = false;
  bool ended_ = false;  // no further call in it
  std::string held_;    // of this frame up to its first call; then of an object that is not yet a call
  std::optional<CallObject> object_;
  std::string name_;
  bool id_ = false;  // Mistral: [CALL_ID] came, and the id comes, which nobody needs
  ArgumentsScanner arguments_;
  std::string text_;  // arguments of this step
};

}  // namespace shoal::text
