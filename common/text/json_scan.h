// JSON as models write it, byte by byte: where a value ends and what a string says. Stores none of it; mistakes within
// a value pass. One owner each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace shoal::text {

inline bool IsJsonSpace(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

enum class ScanStep : uint8_t {
  kMore,     // the byte belongs to it, and it goes on
  kEnd,      // the byte is its last
  kNotPart,  // the byte does not belong to it: it ended before, or cannot go on
};

// Fed with a value from its first byte, which is no white space. Brackets are counted, not matched. '<' outside of a
// string cannot be part: it begins a marker.
class JsonValueScanner {
 public:
  ScanStep Push(char byte);

 private:
  enum class Kind : uint8_t { kUnknown, kNested, kString, kScalar };

  Kind kind_ = Kind::kUnknown;
  bool in_string_ = false;
  bool escaped_ = false;  // the byte before was a backslash
  size_t depth_ = 0;
};

// Fed with a string from after its opening quote; kEnd is the closing one. Adds what the string says to *out. An
// unpaired surrogate says U+FFFD; what is no escape is kept as it stands. Never kNotPart.
class JsonStringDecoder {
 public:
  ScanStep Push(char byte, std::string* out);

 private:
  enum class State : uint8_t { kPlain, kBackslash, kHex };

  void EndHex(std::string* out);
  void DropHigh(std::string* out);

  State state_ = State::kPlain;
  char hex_[4] = {};
  int hex_digits_ = 0;
  uint32_t high_ = 0;  // a high surrogate that waits for its low one
};

}  // namespace shoal::text
