// Tells thoughts from the rest of an answer, byte by byte; what holds is said at OutputParser. One answer, one owner.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/text/marker_matcher.h"
#include "common/text/output_parser.h"
#include "common/text/tool_call_parser.h"

namespace shoal::text {

// The markers around thoughts; empty for kNone.
struct ReasoningMarkers {
  std::string_view open, close;
};
ReasoningMarkers MarkersOf(ReasoningFormat format);

class ReasoningSplitter {
 public:
  // What is no thought goes to `rest`, which must outlive this.
  ReasoningSplitter(const OutputFormat& format, ToolCallParser* rest);

  void Push(char byte, std::vector<OutputEvent>* events);
  // Then `rest` is to be finished.
  void Finish(std::vector<OutputEvent>* events);

  int64_t steps() const { return steps_; }

 private:
  enum class State : uint8_t {
    kStart,  // the opening marker may come
    kThought,
    kRest,
  };

  void Begin(std::string_view text, std::vector<OutputEvent>* events);
  void Think(std::string_view text, std::vector<OutputEvent>* events);
  void PassOn(std::string_view text, std::vector<OutputEvent>* events);

  const bool starts_in_reasoning_;
  ToolCallParser* const rest_;
  MarkerMatcher opening_, closing_;
  State state_ = State::kRest;
  bool after_marker_ = false;  // newlines are dropped
  std::string leading_;        // kStart: white space that came
  int64_t steps_ = 0;
};

}  // namespace shoal::text
