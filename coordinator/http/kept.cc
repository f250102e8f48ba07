// Tested by: tests/http/idempotency_test.cc
#include "coordinator/http/kept.h"

namespace shoal::http {
namespace {

void AppendNumber(uint64_t value, std::string* out) {
  for (int i = 0; i < 8; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

void AppendText(std::string_view text, std::string* out) {
  AppendNumber(text.size(), out);
  out->append(text);
}

// Takes one thing after the other; ok() is false from the first one that is not there.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  uint64_t Number() {
    if (bytes_.size() < 8) ok_ = false;
    if (!ok_) return 0;
    uint64_t value = 0;
    for (int i = 0; i < 8; ++i) value |= static_cast<uint64_t>(static_cast<uint8_t>(bytes_[i])) << (8 * i);
    bytes_.remove_prefix(8);
    return value;
  }
  std::string Text() {
    const uint64_t size = Number();
    if (size > bytes_.size()) ok_ = false;
    if (!ok_) return {};
    std::string text(bytes_.substr(0, size));
    bytes_.remove_prefix(size);
    return text;
  }
  bool ok() const { return ok_; }
  bool done() const { return ok_ && bytes_.empty(); }

 private:
  std::string_view bytes_;
  bool ok_ = true;
};

}  // namespace

std::string EncodeKept(const KeptRequest& request) {
  std::string out;
  AppendNumber(request.chat ? 1 : 0, &out);
  AppendNumber(request.fixed.seed, &out);
  AppendNumber(static_cast<uint64_t>(request.fixed.created), &out);
  AppendText(request.fixed.id, &out);
  AppendText(request.body, &out);
  return out;
}

std::string EncodeKept(const Response& response) {
  std::string out;
  AppendNumber(static_cast<uint64_t>(response.status), &out);
  AppendNumber(response.headers.size(), &out);
  for (const auto& [name, value] : response.headers) {
    AppendText(name, &out);
    AppendText(value, &out);
  }
  AppendText(response.content_type, &out);
  AppendText(response.body, &out);
  return out;
}

std::optional<KeptRequest> DecodeKeptRequest(std::string_view bytes) {
  Reader reader(bytes);
  KeptRequest request;
  request.chat = reader.Number() == 1;
  request.fixed.seed = reader.Number();
  request.fixed.created = static_cast<int64_t>(reader.Number());
  request.fixed.id = reader.Text();
  request.body = reader.Text();
  if (!reader.done()) return std::nullopt;
  return request;
}

std::optional<Response> DecodeKeptResponse(std::string_view bytes) {
  Reader reader(bytes);
  Response response;
  response.status = static_cast<int>(reader.Number());
  const uint64_t headers = reader.Number();
  for (uint64_t i = 0; i < headers && reader.ok(); ++i) {
    std::string name = reader.Text();
    response.headers.emplace_back(std::move(name), reader.Text());
  }
  response.content_type = reader.Text();
  response.body = reader.Text();
  if (!reader.done() || response.status < 200 || response.status > 599) return std::nullopt;
  return response;
}

}  // namespace shoal::http
