// ChatTemplate over the Rust half.
#include "common/text/chat_template.h"

#include <utility>

#include "common/base/status_macros.h"
#include "common/text/rust_call.h"

namespace shoal::text {
namespace {

using WallTime = std::function<std::time_t()>;

// For shoal_text.h's ShoalTimeFormat; `context` is a WallTime.
ptrdiff_t FormatNow(void* context, const char* format, size_t size, char* out, size_t capacity) {
  const std::time_t now = (*static_cast<const WallTime*>(context))();
  std::tm local = {};
  if (localtime_r(&now, &local) == nullptr) return -1;
  if (size == 0) return 0;
  const std::string terminated(format, size);
  // 0 means "does not fit" or "empty"; a template has no use for either.
  const size_t written = std::strftime(out, capacity, terminated.c_str(), &local);
  return written == 0 ? -1 : static_cast<ptrdiff_t>(written);
}

class RustTemplate final : public ChatTemplate {
 public:
  RustTemplate(ShoalTemplate* handle, WallTime wall_time) : handle_(handle), wall_time_(std::move(wall_time)) {}
  ~RustTemplate() override {
    RustCall call;
    shoal_template_free(handle_);
  }

  absl::StatusOr<std::vector<Piece>> Render(std::string_view context_json) const override {
    std::vector<Piece> pieces;
    const ShoalPieceSink sink = {&pieces, [](void* context, const char* data, size_t size, int32_t plain) {
                                   auto* out = static_cast<std::vector<Piece>*>(context);
                                   out->push_back({std::string(data, size), plain != 0});
                                 }};
    const ShoalTimeFormat now = {const_cast<WallTime*>(&wall_time_), &FormatNow};
    RustCall call;
    const int32_t code = shoal_template_render(handle_, ToRust(context_json), now, sink, call.error_sink());
    SHOAL_RETURN_IF_ERROR(call.ToStatus(code));
    return pieces;
  }

 private:
  ShoalTemplate* const handle_;  // owned
  const WallTime wall_time_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const ChatTemplate>> ChatTemplate::Create(std::string_view source,
                                                                         std::string_view bos_token,
                                                                         std::string_view eos_token,
                                                                         std::vector<std::string> control_spellings,
                                                                         std::function<std::time_t()> wall_time) {
  std::vector<ShoalStr> spellings;
  spellings.reserve(control_spellings.size());
  for (const std::string& s : control_spellings) spellings.push_back(ToRust(s));
  if (!wall_time) wall_time = [] { return std::time(nullptr); };
  ShoalTemplate* handle = nullptr;
  RustCall call;
  const int32_t code = shoal_template_create(ToRust(source), ToRust(bos_token), ToRust(eos_token), spellings.data(),
                                             spellings.size(), &handle, call.error_sink());
  SHOAL_RETURN_IF_ERROR(call.ToStatus(code));
  return std::make_shared<const RustTemplate>(handle, std::move(wall_time));
}

}  // namespace shoal::text
