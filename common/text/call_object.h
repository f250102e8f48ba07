// One call as a JSON object, {"name": ..., "arguments": {...}}, byte by byte. One owner each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "common/text/json_scan.h"

namespace shoal::text {

// The value of "arguments" to the text that a client gets: as it stands, but an object within a JSON string is
// unwrapped, and null and "" are {}.
class ArgumentsScanner {
 public:
  // Fed from the value's first byte. Adds to *out what is decided by then.
  ScanStep Push(char byte, std::string* out);

 private:
  enum class Mode : uint8_t { kFirst, kAsIs, kQuote, kUnwrap, kNull };

  void Write(char byte, std::string* out);
  void EndNull(std::string* out);

  JsonValueScanner scanner_;
  JsonStringDecoder decoder_;
  Mode mode_ = Mode::kFirst;
  size_t null_size_ = 0;  // kNull: how much of "null" has come, all of it held back
};

class CallObject {
 public:
  // strict: nothing but its shape says that this is a call, so unknown keys, missing arguments and arguments that are
  // no object make it none. Otherwise other keys are passed over and missing arguments are {}.
  explicit CallObject(bool strict) : strict_(strict) {}

  // Fed from after the opening brace; kEnd is the closing one. Adds to *arguments once begun() is true. kNotPart: this
  // is no call, or, when begun, the call ends here unfinished.
  ScanStep Push(char byte, std::string* arguments);

  bool begun() const { return begun_; }
  const std::string& name() const { return name_; }
  // Bytes of arguments that wait for the name.
  size_t arguments_held() const { return begun_ ? 0 : held_arguments_.size(); }

  static constexpr size_t kMaxName = 256;  // OpenAI allows 64

 private:
  enum class State : uint8_t {
    kKeyOrEnd,
    kKey,
    kColon,
    kValue,
    kName,
    kArguments,
    kHeldArguments,
    kSkip,
    kCommaOrEnd,
  };

  ScanStep PushKey(char byte);
  ScanStep PushName(char byte, std::string* arguments);
  ScanStep PushCommaOrEnd(char byte, std::string* arguments);
  ScanStep BeginValue(char byte, std::string* arguments);
  ScanStep AfterValue(ScanStep step, char byte, std::string* arguments);
  ScanStep End(std::string* arguments);

  bool strict_;
  bool begun_ = false;
  State state_ = State::kKeyOrEnd;
  std::string key_, name_, held_arguments_;
  bool arguments_complete_ = false;  // held_arguments_ is all of them
  JsonStringDecoder decoder_;        // of the key or name that comes
  JsonValueScanner scanner_;         // of the value that is held or passed over
  ArgumentsScanner arguments_;
};

}  // namespace shoal::text
