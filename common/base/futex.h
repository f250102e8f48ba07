// Sleeping on a word of memory that other processes may share (Linux futex), and the pause between two looks at it.
#pragma once

#include <atomic>
#include <cstdint>

#include "common/base/clock.h"

namespace shoal {

// Sleeps while *word == expected, until woken or `timeout` has passed (< 0: none). May return without cause.
void FutexWait(std::atomic<uint32_t>* word, uint32_t expected, DurationNs timeout);
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
