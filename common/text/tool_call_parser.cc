// Tested by: tests/text/output_parser_test.cc
#include "common/text/tool_call_parser.h"

#include <utility>

#include "common/base/check.h"

namespace shoal::text {

struct ToolSyntax {
  ToolFormat format;
  std::vector<std::string_view> markers;  // the first `openers` open a frame, the others end one
  size_t openers;
  std::string_view bare;  // what opens a frame as the first byte of an answer
  bool names;             // a call may be a name and its arguments
};

namespace {

constexpr std::string_view kMarks[] = {"[ARGS]", "[CALL_ID]"};
constexpr int kCallId = 1;
constexpr size_t kMaxLeading = 64;  // white space that an answer begins with and that is worth dropping

const ToolSyntax& SyntaxOf(ToolFormat format) {
  // <|python_start|>: Llama 4. functools: what Phi-4-mini writes when prompted as vLLM's template does; <|tool_call|>:
  // as its own one does.
  static const auto* const table = new std::vector<ToolSyntax>{
      {ToolFormat::kNone, {}, 0, "", false},
      {ToolFormat::kHermes, {"<tool_call>", "</tool_call>"}, 1, "", false},
      {ToolFormat::kLlama3Json, {"<|python_tag|>", "<|python_start|>", "<|python_end|>"}, 2, "{", false},
      {ToolFormat::kMistral, {"[TOOL_CALLS]"}, 1, "", true},
      {ToolFormat::kPhi4MiniJson, {"functools", "<|tool_call|>", "<|/tool_call|>"}, 2, "", false},
      {ToolFormat::kGeneric, {}, 0, "[{", false},
  };
  for (const ToolSyntax& syntax : *table) {
    if (syntax.format == format) return syntax;
  }
  SHOAL_CHECK(false);
  return table->front();
}

// What names of functions are made of, and of ids.
bool IsNameByte(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-' ||
         c == '.' || c == ':' || c == '/';
}

}  // namespace

void AddText(OutputEvent::Kind kind, int call, std::string_view text, std::vector<OutputEvent>* events) {
  if (text.empty()) return;
  const bool goes_on = !events->empty() && events->back().kind == kind && events->back().call == call;
  if (!goes_on) events->push_back({kind, call, {}});
  events->back().text.append(text);
}

ToolCallParser::ToolCallParser(ToolFormat format)
    : syntax_(SyntaxOf(format)), markers_(syntax_.markers), marks_({kMarks, kMarks + 2}) {
  text_begun_ = format == ToolFormat::kNone;
}

void ToolCallParser::Push(char byte, std::vector<OutputEvent>* events) {
  events_ = events;
  do {
    ++steps_;
  } while (!Take(byte));
}

void ToolCallParser::Finish(std::vector<OutputEvent>* events) {
  events_ = events;
  if (state_ == State::kText) {
    AddContent(markers_.partial());
  } else {
    Reject();
  }
  if (!text_begun_) AddText(OutputEvent::Kind::kContent, -1, std::exchange(leading_, {}), events_);
}

bool ToolCallParser::Take(char byte) {
  switch (state_) {
    case State::kText:
      return TakeText(byte);
    case State::kBetween:
      return TakeBetween(byte);
    case State::kObject:
      return TakeObject(byte);
    case State::kName:
      return TakeName(byte);
    case State::kAfterName:
      return TakeAfterName(byte);
    case State::kMark:
      return TakeMark(byte);
    case State::kArguments:
      return TakeArguments(byte);
  }
  return true;
}

bool ToolCallParser::TakeText(char byte) {
  if (!text_begun_ && markers_.partial().empty() && syntax_.bare.find(byte) != std::string_view::npos) {
    OpenFrame({}, /*strict=*/true);
    return false;
  }
  const MarkerMatcher::Step step = markers_.Push(byte);
  AddContent(step.broken);
  if (!step.taken) {
    AddContent({&byte, 1});
  } else if (step.found >= 0) {
    const std::string_view marker = syntax_.markers[static_cast<size_t>(step.found)];
    if (static_cast<size_t>(step.found) < syntax_.openers) {
      OpenFrame(marker, /*strict=*/false);
    } else if (!std::exchange(closer_expected_, false)) {
      AddContent(marker);
    }
  }
  return true;
}

bool ToolCallParser::TakeBetween(char byte) {
  if (IsJsonSpace(byte)) {
    if (!called_) Hold(byte);
    return true;
  }
  if (byte == '{' && !ended_) {
    object_.emplace(strict_);
    state_ = State::kObject;
    Hold(byte);
    return true;
  }
  if (called_) {
    // Separators, and closing brackets, of which models write one too many.
    if (byte == ']') ended_ = true;
    return byte == ']' || byte == '}' || byte == ',' || byte == ';' || LeaveFrame();
  }
  if (byte == '[' && !in_list_) {
    in_list_ = true;
    Hold(byte);
    return true;
  }
  if (!syntax_.names || in_list_ || !IsNameByte(byte)) return Reject();
  name_.clear();
  id_ = false;
  state_ = State::kName;
  return false;
}

bool ToolCallParser::TakeObject(char byte) {
  const bool was_begun = object_->begun();
  const size_t replayed = object_->arguments_held();
  const ScanStep step = object_->Push(byte, &text_);
  if (object_->begun()) {
    if (!was_begun) {
      BeginCall(object_->name());
      steps_ += static_cast<int64_t>(replayed);
    }
    AddArguments();
    if (step != ScanStep::kMore) state_ = State::kBetween;
    return step != ScanStep::kNotPart;
  }
  if (step == ScanStep::kNotPart) return Reject();
  Hold(byte);
  return true;
}

bool ToolCallParser::TakeName(char byte) {
  if (!IsNameByte(byte)) {
    state_ = State::kAfterName;
    return false;
  }
  name_.push_back(byte);
  if (name_.size() > CallObject::kMaxName) return Reject();
  Hold(byte);
  return true;
}

bool ToolCallParser::TakeAfterName(char byte) {
  if (byte == '{') {
    BeginCall(name_);
    arguments_ = {};
    state_ = State::kArguments;
    return false;
  }
  if (byte == '[') {
    state_ = State::kMark;
    return false;
  }
  if (!IsJsonSpace(byte) && !(id_ && IsNameByte(byte))) return Reject();
  Hold(byte);
  return true;
}

bool ToolCallParser::TakeMark(char byte) {
  const MarkerMatcher::Step step = marks_.Push(byte);
  if (!step.taken || !step.broken.empty()) return Reject();
  if (step.found >= 0) {
    id_ = step.found == kCallId;
    state_ = State::kAfterName;
  }
  Hold(byte);
  return true;
}

bool ToolCallParser::TakeArguments(char byte) {
  const ScanStep step = arguments_.Push(byte, &text_);
  AddArguments();
  if (step != ScanStep::kMore) {
    ended_ = true;
    state_ = State::kBetween;
  }
  return step != ScanStep::kNotPart;
}

void ToolCallParser::OpenFrame(std::string_view marker, bool strict) {
  state_ = State::kBetween;
  held_ = marker;
  strict_ = strict;
  called_ = in_list_ = ended_ = closer_expected_ = false;
}

bool ToolCallParser::LeaveFrame() {
  state_ = State::kText;
  closer_expected_ = called_;
  return false;
}

bool ToolCallParser::Reject() {
  AddContent(std::exchange(held_, {}));
  object_.reset();
  marks_.Reset();
  return LeaveFrame();
}

void ToolCallParser::Hold(char byte) {
  held_.push_back(byte);
  const size_t arguments = state_ == State::kObject ? object_->arguments_held() : 0;
  if (held_.size() - arguments > OutputParser::kMaxHeld || arguments > OutputParser::kMaxHeldArguments) Reject();
}

void ToolCallParser::BeginCall(const std::string& name) {
  held_ = {};
  leading_ = {};
  text_begun_ = after_call_ = called_ = true;
  events_->push_back({OutputEvent::Kind::kCallBegins, calls_++, name});
}

void ToolCallParser::AddArguments() {
  AddText(OutputEvent::Kind::kArguments, calls_ - 1, text_, events_);
  text_.clear();
}

void ToolCallParser::AddContent(std::string_view text) {
  steps_ += static_cast<int64_t>(text.size());
  while (after_call_ && !text.empty()) {
    after_call_ = IsJsonSpace(text[0]);
    if (after_call_) text.remove_prefix(1);
  }
  while (!text_begun_ && !text.empty()) {
    text_begun_ = !IsJsonSpace(text[0]) || leading_.size() == kMaxLeading;
    if (text_begun_) break;
    leading_.push_back(text[0]);
    text.remove_prefix(1);
  }
  if (text.empty()) return;
  AddText(OutputEvent::Kind::kContent, -1, std::exchange(leading_, {}), events_);
  AddText(OutputEvent::Kind::kContent, -1, text, events_);
}

}  // namespace shoal::text
