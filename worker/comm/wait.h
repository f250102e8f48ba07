// Waiting between ranks that may be threads or processes: a sequence number in shared memory, a short adaptive spin,
// then a futex. A rank that is killed while it waits leaves nothing locked.
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "worker/comm/collective.h"
#include "worker/comm/wait_note.h"

namespace shoal::comm {

// A sequence number that one rank raises and others wait for; alone on its cache line. All zero bits is a valid start.
struct alignas(64) Signal {
  std::atomic<uint32_t> value;
  std::atomic<uint32_t> sleepers;
  uint64_t note[2];  // what the writer says about even and odd numbers; written before, read after `value`
};
static_assert(sizeof(Signal) == 64);

// Sequence numbers wrap: `a` is at or past `b`.
inline bool Reached(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b) >= 0; }

// Everything written before is visible to whoever sees the value.
void Publish(Signal& signal, uint32_t value);

// One per rank; its thread only.
class Waiter {
 public:
  // `ranks` run on this host: with more of them than cores, waiting gives the core away at once. `note` (may be null)
  // says for whom a wait that sleeps waits.
  Waiter(const AbortFlag* abort, CommStats* stats, int ranks, WaitNote* note = nullptr);

  // OK once `signal` has reached `value`; Aborted, naming `what` and `peer`, once the abort flag is raised.
  absl::Status Wait(Signal& signal, uint32_t value, const char* what, int peer) {
    if (Reached(signal.value.load(std::memory_order_acquire), value)) return absl::OkStatus();
    return WaitSlowly(signal, value, what, peer);
  }

 private:
  absl::Status WaitSlowly(Signal& signal, uint32_t value, const char* what, int peer);
  absl::Status Sleep(Signal& signal, uint32_t value, const char* what, int peer);
  bool Spin(Signal& signal, uint32_t value, TimeNs deadline);

  const AbortFlag* abort_;
  CommStats* stats_;
  WaitNote* note_;
  bool crowded_;
  DurationNs spin_;  // adapts: long while waits end within it, short while they do not
};

}  // namespace shoal::comm
