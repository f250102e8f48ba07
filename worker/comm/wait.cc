#include "worker/comm/wait.h"

#include <sched.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/futex.h"

namespace shoal::comm {
namespace {

// A futex sleep and its wake-up cost some 5 us on Linux, so a wait that spins for less is lost as soon as the peer sleeps
// too: the shortest spin is a few sleeps long. With more ranks than cores, the peer needs the core: one look, then sleep.
constexpr DurationNs kLongestSpin = 60 * kMicrosecond;
constexpr DurationNs kShortestSpin = 15 * kMicrosecond;
// How late an abort may be noticed by a rank that sleeps.
constexpr DurationNs kSleep = 10 * kMillisecond;
constexpr int kPausesPerLook = 32;

int Cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

}  // namespace

void Publish(Signal& signal, uint32_t value) {
  // Sequentially consistent with the sleeper's increment: either it sees the value or it is seen here.
  signal.value.store(value, std::memory_order_seq_cst);
  if (signal.sleepers.load(std::memory_order_seq_cst) == 0) return;
  FutexWakeAll(&signal.value);
}

Waiter::Waiter(const AbortFlag* abort, CommStats* stats, int ranks)
    : abort_(abort), stats_(stats), crowded_(ranks > Cores()), spin_(kLongestSpin) {}

bool Waiter::Spin(Signal& signal, uint32_t value, TimeNs deadline) {
  const RealClock clock;
  do {
    for (int i = 0; i < kPausesPerLook; ++i) {
      if (Reached(signal.value.load(std::memory_order_acquire), value)) return true;
      CpuRelax();
    }
  } while (clock.Now() < deadline && abort_->load(std::memory_order_relaxed) == 0);
  return Reached(signal.value.load(std::memory_order_acquire), value);
}

absl::Status Waiter::WaitSlowly(Signal& signal, uint32_t value, const char* what, int peer) {
  const RealClock clock;
  const TimeNs begin = clock.Now();
  bool there = Spin(signal, value, begin + (crowded_ ? 0 : spin_));
  spin_ = there ? std::min(spin_ * 2, kLongestSpin) : std::max(spin_ / 2, kShortestSpin);
  while (!there) {
    if (abort_->load(std::memory_order_acquire) != 0) {
      return absl::AbortedError(absl::StrCat("aborted while waiting for ", what, " of rank ", peer));
    }
    signal.sleepers.fetch_add(1, std::memory_order_seq_cst);
    const uint32_t seen = signal.value.load(std::memory_order_seq_cst);
    there = Reached(seen, value);
    if (!there) FutexWait(&signal.value, seen, kSleep);
    signal.sleepers.fetch_sub(1, std::memory_order_relaxed);
    there = Reached(signal.value.load(std::memory_order_acquire), value);
  }
  stats_->waited += clock.Now() - begin;
  return absl::OkStatus();
}

}  // namespace shoal::comm
