#include "common/base/futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>

namespace shoal {

void FutexWait(std::atomic<uint32_t>* word, uint32_t expected, DurationNs timeout, FutexScope scope) {
  const timespec t{timeout / kSecond, timeout % kSecond};
  const int op = scope == FutexScope::kPrivate ? FUTEX_WAIT_PRIVATE : FUTEX_WAIT;
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), op, expected, timeout < 0 ? nullptr : &t, nullptr, 0);
}

void FutexWake(std::atomic<uint32_t>* word, int count, FutexScope scope) {
  const int op = scope == FutexScope::kPrivate ? FUTEX_WAKE_PRIVATE : FUTEX_WAKE;
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), op, count, nullptr, nullptr, 0);
}

void FutexWakeAll(std::atomic<uint32_t>* word) { FutexWake(word, INT_MAX, FutexScope::kShared); }

}  // namespace shoal
