#include "common/text/json_scan.h"

#include <string_view>

namespace shoal::text {
namespace {

bool IsScalarByte(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '+' || c == '.';
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

void AppendUtf8(uint32_t code, std::string* out) {
  if (code < 0x80) {
    out->push_back(static_cast<char>(code));
    return;
  }
  int more = 1;
  if (code >= 0x800) more = 2;
  if (code >= 0x10000) more = 3;
  constexpr uint32_t kLead[] = {0, 0xC0, 0xE0, 0xF0};
  out->push_back(static_cast<char>(kLead[more] | (code >> (6 * more))));
  for (int i = more - 1; i >= 0; --i) out->push_back(static_cast<char>(0x80 | ((code >> (6 * i)) & 0x3F)));
}

constexpr std::string_view kEscapes = "\"\\/bfnrt";
constexpr std::string_view kEscaped = "\"\\/\b\f\n\r\t";

}  // namespace

ScanStep JsonValueScanner::Push(char byte) {
  if (in_string_) {
    if (escaped_) {
      escaped_ = false;
    } else if (byte == '\\') {
      escaped_ = true;
    } else if (byte == '"') {
      in_string_ = false;
      if (kind_ == Kind::kString) return ScanStep::kEnd;
    }
    return ScanStep::kMore;
  }
  const bool opens = byte == '{' || byte == '[';
  if (kind_ == Kind::kUnknown) {
    if (opens) {
      kind_ = Kind::kNested;
      depth_ = 1;
    } else if (byte == '"') {
      kind_ = Kind::kString;
      in_string_ = true;
    } else if (IsScalarByte(byte)) {
      kind_ = Kind::kScalar;
    } else {
      return ScanStep::kNotPart;
    }
    return ScanStep::kMore;
  }
  if (kind_ == Kind::kScalar) return IsScalarByte(byte) ? ScanStep::kMore : ScanStep::kNotPart;
  if (byte == '<') return ScanStep::kNotPart;
  if (byte == '"') in_string_ = true;
  if (opens) ++depth_;
  if ((byte == '}' || byte == ']') && --depth_ == 0) return ScanStep::kEnd;
  return ScanStep::kMore;
}

void JsonStringDecoder::DropHigh(std::string* out) {
  if (high_ != 0) AppendUtf8(0xFFFD, out);
  high_ = 0;
}

// Four digits are there.
void JsonStringDecoder::EndHex(std::string* out) {
  uint32_t code = 0;
  for (const char digit : hex_) code = code * 16 + static_cast<uint32_t>(HexDigit(digit));
  const bool high = code >= 0xD800 && code < 0xDC00;
  const bool low = code >= 0xDC00 && code < 0xE000;
  if (low && high_ != 0) {
    AppendUtf8(0x10000 + ((high_ - 0xD800) << 10) + (code - 0xDC00), out);
    high_ = 0;
    return;
  }
  DropHigh(out);
  if (high) {
    high_ = code;
  } else {
    AppendUtf8(low ? 0xFFFD : code, out);
  }
}

ScanStep JsonStringDecoder::Push(char byte, std::string* out) {
  if (state_ == State::kHex) {
    if (HexDigit(byte) >= 0) {
      hex_[hex_digits_++] = byte;
      if (hex_digits_ < 4) return ScanStep::kMore;
      state_ = State::kPlain;
      EndHex(out);
      return ScanStep::kMore;
    }
    DropHigh(out);
    out->append("\\u").append(hex_, static_cast<size_t>(hex_digits_));
    state_ = State::kPlain;
  }
  if (state_ == State::kBackslash) {
    state_ = State::kPlain;
    if (byte == 'u') {
      state_ = State::kHex;
      hex_digits_ = 0;
      return ScanStep::kMore;
    }
    DropHigh(out);
    const size_t escape = kEscapes.find(byte);
    if (escape == std::string_view::npos) out->push_back('\\');
    out->push_back(escape == std::string_view::npos ? byte : kEscaped[escape]);
    return ScanStep::kMore;
  }
  if (byte == '\\') {
    state_ = State::kBackslash;
    return ScanStep::kMore;
  }
  DropHigh(out);
  if (byte == '"') return ScanStep::kEnd;
  out->push_back(byte);
  return ScanStep::kMore;
}

}  // namespace shoal::text
