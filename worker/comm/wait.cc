#include "worker/comm/wait.h"

#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/futex.h"
#include "common/base/status_macros.h"

namespace shoal::comm {
namespace {

// Waking a sleeper takes 5 to 30 us on Linux (an idle virtual core is slow), and a rank that sleeps makes its peer
// wait, and sleep, in turn. So a wait spins for longer than a wake-up takes, unless the waits before were far longer
// than that. With more ranks than cores, the peer needs the core: one look, then sleep.
constexpr DurationNs kLongestSpin = 60 * kMicrosecond;
constexpr DurationNs kShortestSpin = 5 * kMicrosecond;
// How late an abort may be noticed by a rank that sleeps.
constexpr DurationNs kSleep = 10 * kMillisecond;
constexpr int kPausesPerLook = 32;

}  // namespace

void Publish(Signal& signal, uint32_t value) {
  // Sequentially consistent with the sleeper's increment: either it sees the value or it is seen here.
  signal.value.store(value, std::memory_order_seq_cst);
  if (signal.sleepers.load(std::memory_order_seq_cst) == 0) return;
  FutexWakeAll(&signal.value);
}

// The machine's cores, not those of this thread: ranks may be bound to one each.
Waiter::Waiter(const AbortFlag* abort, CommStats* stats, int ranks, WaitNote* note)
    : abort_(abort), stats_(stats), note_(note), crowded_(ranks > sysconf(_SC_NPROCESSORS_ONLN)), spin_(kLongestSpin) {}

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
  const bool there = Spin(signal, value, begin + (crowded_ ? 0 : spin_));
  if (!there) SHOAL_RETURN_IF_ERROR(Sleep(signal, value, what, peer));
  const DurationNs waited = clock.Now() - begin;
  spin_ = waited < 2 * kLongestSpin ? kLongestSpin : std::max(spin_ / 2, kShortestSpin);
  stats_->waited += waited;
  return absl::OkStatus();
}

absl::Status Waiter::Sleep(Signal& signal, uint32_t value, const char* what, int peer) {
  NotedWait noted(note_, static_cast<uint32_t>(peer) + 1);
  while (true) {
    noted.Look();
    if (abort_->load(std::memory_order_acquire) != 0) {
      return absl::AbortedError(absl::StrCat("aborted while waiting for ", what, " of rank ", peer));
    }
    signal.sleepers.fetch_add(1, std::memory_order_seq_cst);
    const uint32_t seen = signal.value.load(std::memory_order_seq_cst);
    if (!Reached(seen, value)) FutexWait(&signal.value, seen, kSleep);
    signal.sleepers.fetch_sub(1, std::memory_order_relaxed);
    if (Reached(signal.value.load(std::memory_order_acquire), value)) return absl::OkStatus();
  }
}

}  // namespace shoal::comm
