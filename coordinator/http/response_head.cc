#include "coordinator/http/response_head.h"

#include <sys/random.h>
#include <time.h>

#include <array>
#include <charconv>

#include "common/base/check.h"

namespace shoal::http {
namespace {

std::string_view Reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 202:
      return "Accepted";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 411:
      return "Length Required";
    case 413:
      return "Content Too Large";
    case 417:
      return "Expectation Failed";
    case 422:
      return "Unprocessable Content";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 503:
      return "Service Unavailable";
    default:
      return "Status";
  }
}

void AppendHeader(std::string_view name, std::string_view value, std::string* out) {
  out->append(name).append(": ").append(value).append("\r\n");
}

// RFC 9110 5.6.7: Sun, 06 Nov 1994 08:49:37 GMT
std::string HttpDate() {
  const time_t now = time(nullptr);
  tm parts;
  gmtime_r(&now, &parts);
  char text[40];
  strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &parts);
  return text;
}

std::string Start(int status, std::string_view request_id, bool keep_alive) {
  std::string head;
  head.reserve(512);
  head.append("HTTP/1.1 ").append(std::to_string(status)).append(" ").append(Reason(status)).append("\r\n");
  AppendHeader("Date", HttpDate(), &head);
  AppendHeader("X-Request-Id", request_id, &head);
  AppendHeader("Access-Control-Allow-Origin", "*", &head);
  AppendHeader("Access-Control-Expose-Headers", "x-request-id, retry-after, idempotent-replayed", &head);
  AppendHeader("Connection", keep_alive ? "keep-alive" : "close", &head);
  return head;
}

}  // namespace

std::string ResponseHead(const Response& response, std::string_view request_id, bool keep_alive) {
  std::string head = Start(response.status, request_id, keep_alive);
  for (const auto& [name, value] : response.headers) {
    AppendHeader(name, value, &head);
  }
  if (response.status != 204) {
    AppendHeader("Content-Type", response.content_type, &head);
    AppendHeader("Content-Length", std::to_string(response.body.size()), &head);
  }
  return head.append("\r\n");
}

std::string StreamHead(std::string_view request_id, bool chunked, bool keep_alive) {
  std::string head = Start(200, request_id, chunked && keep_alive);
  AppendHeader("Content-Type", "text/event-stream; charset=utf-8", &head);
  AppendHeader("Cache-Control", "no-cache", &head);
  AppendHeader("X-Accel-Buffering", "no", &head);
  if (chunked) AppendHeader("Transfer-Encoding", "chunked", &head);
  return head.append("\r\n");
}

std::string Chunk(std::string_view bytes) {
  std::array<char, 16> digits;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), bytes.size(), 16);
  std::string chunk;
  chunk.reserve(bytes.size() + 16);
  chunk.append(digits.data(), end.ptr).append("\r\n").append(bytes).append("\r\n");
  return chunk;
}

std::string UsableRequestId(std::string_view from_client, size_t limit) {
  bool usable = !from_client.empty() && from_client.size() <= limit;
  for (const char c : from_client) {
    usable = usable && c > 0x20 && c < 0x7F;
  }
  return usable ? std::string(from_client) : RandomHex(16);
}

std::string RandomHex(size_t bytes) {
  static constexpr char kHex[] = "0123456789abcdef";
  unsigned char raw[64];
  SHOAL_CHECK(bytes <= sizeof raw);
  SHOAL_CHECK(getrandom(raw, bytes, 0) == static_cast<ssize_t>(bytes));  // never short up to 256 bytes
  std::string text;
  text.reserve(2 * bytes);
  for (size_t i = 0; i < bytes; ++i) {
    text += kHex[raw[i] >> 4];
    text += kHex[raw[i] & 15];
  }
  return text;
}

size_t Request::Count(std::string_view name) const {
  size_t count = 0;
  for (const auto& header : headers) count += header.first == name ? 1 : 0;
  return count;
}

std::string_view Request::Header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return {};
}

}  // namespace shoal::http
