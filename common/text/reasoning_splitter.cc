// Tested by: tests/text/output_parser_test.cc
#include "common/text/reasoning_splitter.h"

#include <utility>

#include "common/text/json_scan.h"

namespace shoal::text {
namespace {

constexpr size_t kMaxLeading = 64;  // white space before the opening marker

std::vector<std::string_view> One(std::string_view marker) {
  if (marker.empty()) return {};
  return {marker};
}

}  // namespace

ReasoningMarkers MarkersOf(ReasoningFormat format) {
  switch (format) {
    case ReasoningFormat::kNone:
      return {};
    case ReasoningFormat::kDeepSeekR1:
    case ReasoningFormat::kQwen3:
      return {"<think>", "</think>"};
    case ReasoningFormat::kMistral:
      return {"[THINK]", "[/THINK]"};
  }
  return {};
}

ReasoningSplitter::ReasoningSplitter(const OutputFormat& format, ToolCallParser* rest)
    : starts_in_reasoning_(format.starts_in_reasoning),
      rest_(rest),
      opening_(One(MarkersOf(format.reasoning).open)),
      closing_(One(MarkersOf(format.reasoning).close)) {
  if (format.reasoning == ReasoningFormat::kNone) return;
  state_ = State::kStart;
  after_marker_ = starts_in_reasoning_;
}

void ReasoningSplitter::Push(char byte, std::vector<OutputEvent>* events) {
  ++steps_;
  if (state_ == State::kStart) {
    if (opening_.partial().empty() && IsJsonSpace(byte) && leading_.size() < kMaxLeading) {
      leading_.push_back(byte);
      return;
    }
    const MarkerMatcher::Step step = opening_.Push(byte);
    if (step.found >= 0) {
      leading_ = {};
      after_marker_ = true;
      state_ = State::kThought;
      return;
    }
    if (step.taken && step.broken.empty()) return;
    Begin(step.broken, events);
    ++steps_;
  }
  if (state_ == State::kRest) return PassOn({&byte, 1}, events);
  const MarkerMatcher::Step step = closing_.Push(byte);
  Think(step.broken, events);
  if (!step.taken) Think({&byte, 1}, events);
  if (step.found < 0) return;
  after_marker_ = true;
  state_ = State::kRest;
}

// The answer does not begin with the opening marker, but with white space and `text`.
void ReasoningSplitter::Begin(std::string_view text, std::vector<OutputEvent>* events) {
  state_ = starts_in_reasoning_ ? State::kThought : State::kRest;
  for (const std::string_view part : {std::string_view(leading_), text}) {
    if (starts_in_reasoning_) {
      Think(part, events);
    } else {
      PassOn(part, events);
    }
  }
  leading_ = {};
}

void ReasoningSplitter::Think(std::string_view text, std::vector<OutputEvent>* events) {
  steps_ += static_cast<int64_t>(text.size());
  while (after_marker_ && !text.empty()) {
    after_marker_ = text[0] == '\n';
    if (after_marker_) text.remove_prefix(1);
  }
  AddText(OutputEvent::Kind::kReasoning, -1, text, events);
}

void ReasoningSplitter::PassOn(std::string_view text, std::vector<OutputEvent>* events) {
  for (const char byte : text) {
    after_marker_ = after_marker_ && byte == '\n';
    if (!after_marker_) rest_->Push(byte, events);
  }
}

void ReasoningSplitter::Finish(std::vector<OutputEvent>* events) {
  if (state_ == State::kStart) return Begin(opening_.partial(), events);
  if (state_ == State::kThought) Think(closing_.partial(), events);
}

}  // namespace shoal::text
