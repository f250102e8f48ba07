// Tested by: tests/text/output_parser_test.cc
#include "common/text/call_object.h"

#include <algorithm>
#include <string_view>

namespace shoal::text {
namespace {

constexpr std::string_view kNull = "null";
constexpr size_t kMaxKey = 32;  // more than any known key

bool IsArguments(std::string_view key) { return key == "arguments" || key == "parameters"; }

// "type" and "id": the other fields of a call in OpenAI's API, which models imitate.
bool IsKnown(std::string_view key) { return key == "name" || IsArguments(key) || key == "type" || key == "id"; }

}  // namespace

// The value ended, or goes on with something else than "null".
void ArgumentsScanner::EndNull(std::string* out) {
  out->append(kNull.substr(0, null_size_));
  mode_ = Mode::kAsIs;
}

void ArgumentsScanner::Write(char byte, std::string* out) {
  switch (mode_) {
    case Mode::kFirst:
      if (byte == '"') {
        mode_ = Mode::kQuote;
        return;
      }
      if (byte == kNull[0]) {
        mode_ = Mode::kNull;
        null_size_ = 1;
        return;
      }
      mode_ = Mode::kAsIs;
      break;
    case Mode::kQuote:
      if (byte == '{') {
        mode_ = Mode::kUnwrap;
        decoder_.Push(byte, out);
        return;
      }
      mode_ = Mode::kAsIs;
      if (byte == '"') {
        out->append("{}");
        return;
      }
      out->push_back('"');
      break;
    case Mode::kUnwrap:
      decoder_.Push(byte, out);
      return;
    case Mode::kNull:
      if (null_size_ < kNull.size() && byte == kNull[null_size_]) {
        ++null_size_;
        return;
      }
      EndNull(out);
      break;
    case Mode::kAsIs:
      break;
  }
  out->push_back(byte);
}

ScanStep ArgumentsScanner::Push(char byte, std::string* out) {
  const ScanStep step = scanner_.Push(byte);
  if (step != ScanStep::kNotPart) {
    Write(byte, out);
  } else if (mode_ == Mode::kNull && null_size_ == kNull.size()) {
    out->append("{}");
  } else if (mode_ == Mode::kNull) {
    EndNull(out);
  }
  return step;
}

ScanStep CallObject::Push(char byte, std::string* arguments) {
  switch (state_) {
    case State::kKeyOrEnd:
      if (IsJsonSpace(byte)) return ScanStep::kMore;
      if (byte == '}') return End(arguments);
      if (byte != '"') return ScanStep::kNotPart;
      key_.clear();
      decoder_ = {};
      state_ = State::kKey;
      return ScanStep::kMore;
    case State::kKey:
      return PushKey(byte);
    case State::kColon:
      if (IsJsonSpace(byte)) return ScanStep::kMore;
      if (byte != ':') return ScanStep::kNotPart;
      state_ = State::kValue;
      return ScanStep::kMore;
    case State::kValue:
      if (IsJsonSpace(byte)) return ScanStep::kMore;
      return BeginValue(byte, arguments);
    case State::kName:
      return PushName(byte, arguments);
    case State::kArguments:
      return AfterValue(arguments_.Push(byte, arguments), byte, arguments);
    case State::kHeldArguments: {
      const ScanStep step = scanner_.Push(byte);
      if (step != ScanStep::kNotPart) held_arguments_.push_back(byte);
      if (step != ScanStep::kMore) arguments_complete_ = true;
      return AfterValue(step, byte, arguments);
    }
    case State::kSkip:
      return AfterValue(scanner_.Push(byte), byte, arguments);
    case State::kCommaOrEnd:
      return PushCommaOrEnd(byte, arguments);
  }
  return ScanStep::kNotPart;
}

ScanStep CallObject::PushKey(char byte) {
  const ScanStep step = decoder_.Push(byte, &key_);
  if (step == ScanStep::kMore) {
    if (key_.size() <= kMaxKey) return step;
    if (strict_ && !begun_) return ScanStep::kNotPart;
    key_.resize(kMaxKey);
    return step;
  }
  if (strict_ && !begun_ && !IsKnown(key_)) return ScanStep::kNotPart;
  state_ = State::kColon;
  return ScanStep::kMore;
}

// The first byte of a value.
ScanStep CallObject::BeginValue(char byte, std::string* arguments) {
  if (key_ == "name" && name_.empty()) {
    if (byte != '"') return ScanStep::kNotPart;
    decoder_ = {};
    state_ = State::kName;
    return ScanStep::kMore;
  }
  scanner_ = {};
  state_ = State::kSkip;
  if (IsArguments(key_) && !begun_ && !arguments_complete_) {
    if (strict_ && byte != '{' && byte != '"' && byte != kNull[0]) return ScanStep::kNotPart;
    begun_ = !name_.empty();
    state_ = begun_ ? State::kArguments : State::kHeldArguments;
  }
  return Push(byte, arguments);
}

ScanStep CallObject::PushName(char byte, std::string* arguments) {
  const ScanStep step = decoder_.Push(byte, &name_);
  if (name_.size() > kMaxName) return ScanStep::kNotPart;
  if (step == ScanStep::kMore) return step;
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20; };
  if (name_.empty() || std::any_of(name_.begin(), name_.end(), is_control)) return ScanStep::kNotPart;
  state_ = State::kCommaOrEnd;
  if (!arguments_complete_) return ScanStep::kMore;
  begun_ = true;
  ScanStep last = ScanStep::kMore;
  for (const char held : held_arguments_) last = arguments_.Push(held, arguments);
  if (last != ScanStep::kEnd) arguments_.Push(',', arguments);  // a number or null does not end by itself
  held_arguments_ = {};
  return ScanStep::kMore;
}

ScanStep CallObject::AfterValue(ScanStep step, char byte, std::string* arguments) {
  if (step == ScanStep::kMore) return step;
  state_ = State::kCommaOrEnd;
  return step == ScanStep::kEnd ? ScanStep::kMore : PushCommaOrEnd(byte, arguments);
}

ScanStep CallObject::PushCommaOrEnd(char byte, std::string* arguments) {
  if (IsJsonSpace(byte)) return ScanStep::kMore;
  if (byte == '}') return End(arguments);
  if (byte != ',') return ScanStep::kNotPart;
  state_ = State::kKeyOrEnd;
  return ScanStep::kMore;
}

ScanStep CallObject::End(std::string* arguments) {
  if (begun_) return ScanStep::kEnd;
  if (strict_ || name_.empty()) return ScanStep::kNotPart;
  begun_ = true;
  arguments->append("{}");
  return ScanStep::kEnd;
}

}  // namespace shoal::text
