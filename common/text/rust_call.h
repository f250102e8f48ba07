// Helpers around the Rust half's C entries (rust/shoal_text.h). Internal to common/text.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "common/text/rust/shoal_text.h"

#if defined(__SANITIZE_THREAD__)
#define SHOAL_TEXT_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SHOAL_TEXT_TSAN 1
#endif
#endif

#ifdef SHOAL_TEXT_TSAN
extern "C" void __tsan_ignore_thread_begin();
extern "C" void __tsan_ignore_thread_end();
#endif

namespace shoal::text {

inline ShoalStr ToRust(std::string_view s) { return {s.data(), s.size()}; }

// Around every call into Rust: ThreadSanitizer sees that code's memcpy and free but not its atomics, so it would report
// races that are none.
class RustCall {
 public:
#ifdef SHOAL_TEXT_TSAN
  RustCall() { __tsan_ignore_thread_begin(); }
  ~RustCall() { __tsan_ignore_thread_end(); }
#else
  RustCall() = default;
  ~RustCall() {}
#endif
  RustCall(const RustCall&) = delete;
  RustCall& operator=(const RustCall&) = delete;

  // Where an entry puts its error message.
  ShoalBytesSink error_sink() {
    return {&error_, [](void* context, const char* data, size_t size) {
              static_cast<std::string*>(context)->assign(data, size);
            }};
  }
  absl::Status ToStatus(int32_t code) const {
    const absl::string_view message(error_.data(), error_.size());
    switch (code) {
      case SHOAL_TEXT_OK:
        return absl::OkStatus();
      case SHOAL_TEXT_INVALID:
        return absl::InvalidArgumentError(message);
      case SHOAL_TEXT_EXHAUSTED:
        return absl::ResourceExhaustedError(message);
      case SHOAL_TEXT_UNSUPPORTED:
        return absl::UnimplementedError(message);
      default:
        return absl::InternalError(message);
    }
  }

 private:
  std::string error_;
};

}  // namespace shoal::text
