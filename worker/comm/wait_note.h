// How a rank says that it waits for another and is not stuck itself: plain atomics in memory that its agent reads.
// What it waits for is the operation that it is in.
#pragma once

#include <atomic>
#include <cstdint>

namespace shoal::comm {

// All zero bits: it waits for nobody. Written by the rank.
struct WaitNote {
  static constexpr uint32_t kAgent = UINT32_MAX;  // its own agent, which does not take its answers

  std::atomic<uint32_t> peer{0};   // 1 + the rank that is waited for, or kAgent; 0: nobody
  std::atomic<uint64_t> looks{0};  // grows at least every 100 ms while it waits: who waits still runs
};

// For as long as a wait lasts. `note` may be null.
class NotedWait {
 public:
  NotedWait(WaitNote* note, uint32_t peer) : note_(note) {
    if (note_ != nullptr) note_->peer.store(peer, std::memory_order_relaxed);
  }
  ~NotedWait() {
    if (note_ != nullptr) note_->peer.store(0, std::memory_order_relaxed);
  }
  NotedWait(const NotedWait&) = delete;
  NotedWait& operator=(const NotedWait&) = delete;

  // Before each sleep.
  void Look() {
    if (note_ != nullptr) note_->looks.fetch_add(1, std::memory_order_relaxed);
  }

 private:
  WaitNote* const note_;
};

}  // namespace shoal::comm
