// Time as a seam: production reads the machine's monotonic clock, tests and simulation turn their own.
#pragma once

#include <atomic>
#include <cstdint>

namespace shoal {

// Nanoseconds since an arbitrary origin; monotonic; comparable only within one process (real) or one run (simulated).
using TimeNs = int64_t;
using DurationNs = int64_t;
inline constexpr DurationNs kMicrosecond = 1'000;
inline constexpr DurationNs kMillisecond = 1'000'000;
inline constexpr DurationNs kSecond = 1'000'000'000;

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimeNs Now() const = 0;
};

// CLOCK_MONOTONIC: the same on every process of one host, so traces of ranks and coordinator can be put side by side.
class RealClock final : public Clock {
 public:
  TimeNs Now() const override;
};

// Moves only when told to.
class SimClock final : public Clock {
 public:
  TimeNs Now() const override { return now_.load(std::memory_order_acquire); }
  void AdvanceTo(TimeNs t) { now_.store(t, std::memory_order_release); }

 private:
  std::atomic<TimeNs> now_{0};
};

}  // namespace shoal
