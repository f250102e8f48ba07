// CHECK: an assertion that stays on in release builds. Only for our own bugs; input from outside gets a Status.
#pragma once

namespace shoal {
// Prints the place and the condition to stderr and aborts.
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition);
}  // namespace shoal

#define SHOAL_CHECK(condition) \
  (static_cast<bool>(condition) ? static_cast<void>(0) : ::shoal::CheckFailed(__FILE__, __LINE__, #condition))
