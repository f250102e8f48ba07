// When a child that has ended is started again, and when one that stands still is given up. Pure: time comes in.
#pragma once

#include <optional>

#include "common/base/clock.h"

namespace shoal::cli {

// Waits 0.1 s before a start, twice as long before each next one up to 5 s, and 0.1 s again after a life of 30 s.
class Restarts {
 public:
  static constexpr int kMaxEarlyEnds = 5;

  void Started(TimeNs now);
  // It does its work. Any number of times in a life.
  void Ready() { ready_ = true; }
  // It has ended: how long to wait before the next start. Nothing: it has ended too often in a row without having been
  // ready, and will not do better.
  std::optional<DurationNs> Ended(TimeNs now);

 private:
  TimeNs started_ = 0;
  bool ready_ = false;
  int early_ends_ = 0;  // in a row
  int starts_ = 0;      // since the last long life
};

// Finds a process that has been stopped (SIGSTOP, a job-control signal) for five seconds on end.
class StopWatch {
 public:
  static constexpr DurationNs kPatience = 5 * kSecond;

  // What is seen now; true once it is enough. Call a few times a second. Time in which nobody looked counts little: the
  // one who looks may have been stopped as well.
  bool Observe(bool stopped, TimeNs now);
  void Reset() { *this = {}; }

 private:
  DurationNs stopped_for_ = 0;
  TimeNs looked_ = 0;  // 0: not stopped when last seen
};

}  // namespace shoal::cli
