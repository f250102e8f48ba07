// Sleeping on a word of memory (Linux futex), and the pause between two looks at it.
#pragma once

#include <atomic>
#include <cstdint>

#include "common/base/clock.h"

namespace shoal {

// Who may sleep on the word: any process that maps it, or the threads of this one, which is cheaper.
enum class FutexScope { kShared, kPrivate };

// Sleeps while *word == expected, until woken or `timeout` has passed (< 0: none). May return without cause.
void FutexWait(std::atomic<uint32_t>* word, uint32_t expected, DurationNs timeout,
               FutexScope scope = FutexScope::kShared);
// Wakes at most `count` sleepers of the same scope.
void FutexWake(std::atomic<uint32_t>* word, int count, FutexScope scope);
void FutexWakeAll(std::atomic<uint32_t>* word);

// Tells the core that this is a spin loop.
inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace shoal
