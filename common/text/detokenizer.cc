// Token bytes to whole characters.
#include "common/text/detokenizer.h"

#include <utility>

namespace shoal::text {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// What may follow a lead byte: the number of continuation bytes and the range of the first of them. Unicode, table 3-7.
struct Lead {
  int continuation;  // 0: not a lead byte
  uint8_t low, high;
};

Lead LeadOf(uint8_t b) {
  if (b >= 0xC2 && b <= 0xDF) return {1, 0x80, 0xBF};
  if (b == 0xE0) return {2, 0xA0, 0xBF};
  if (b == 0xED) return {2, 0x80, 0x9F};
  if (b >= 0xE1 && b <= 0xEF) return {2, 0x80, 0xBF};
  if (b == 0xF0) return {3, 0x90, 0xBF};
  if (b >= 0xF1 && b <= 0xF3) return {3, 0x80, 0xBF};
  if (b == 0xF4) return {3, 0x80, 0x8F};
  return {0, 0, 0};
}

// Moves whole characters from `bytes` to the result; an incomplete sequence at the end stays. Each byte sequence that
// can never become a character gives one U+FFFD per maximal part (Unicode, chapter 3.9), as Python's and WHATWG's
// decoders do.
std::string TakeCharacters(std::string& bytes) {
  std::string out;
  out.reserve(bytes.size());
  size_t at = 0;
  while (at < bytes.size()) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
    if (byte(at) < 0x80) {
      out.push_back(bytes[at++]);
      continue;
    }
    const Lead lead = LeadOf(byte(at));
    size_t end = at + 1;
    int missing = lead.continuation;
    while (missing > 0 && end < bytes.size()) {
      const bool first = end == at + 1;
      if (byte(end) < (first ? lead.low : 0x80) || byte(end) > (first ? lead.high : 0xBF)) break;
      ++end;
      --missing;
    }
    if (lead.continuation > 0 && missing > 0 && end == bytes.size()) break;  // may still become a character
    if (lead.continuation > 0 && missing == 0) {
      out.append(bytes, at, end - at);
    } else {
      out.append(kReplacement);
    }
    at = end;
  }
  bytes.erase(0, at);
  return out;
}

}  // namespace

Detokenizer::Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool show_control, bool at_text_start)
    : tokenizer_(std::move(tokenizer)),
      show_control_(show_control),
      spaces_to_drop_(at_text_start ? tokenizer_->leading_spaces() : 0) {}

std::string Detokenizer::Push(int32_t id) {
  std::string bytes = tokenizer_->TokenBytes(id, show_control_);
  if (spaces_to_drop_ > 0 && !bytes.empty()) {
    size_t spaces = 0;
    while (spaces < bytes.size() && bytes[spaces] == ' ' && spaces_to_drop_ > 0) {
      ++spaces;
      --spaces_to_drop_;
    }
    if (spaces < bytes.size()) spaces_to_drop_ = 0;
    bytes.erase(0, spaces);
  }
  if (held_.empty()) {
    held_ = std::move(bytes);
  } else {
    held_ += bytes;
  }
  return TakeCharacters(held_);
}

std::string Detokenizer::Finish() {
  held_.clear();
  return std::string();
}

}  // namespace shoal::text
