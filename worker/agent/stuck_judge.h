// Whether a rank that is alive is stuck. Pure: judges what was seen of it at one look after the other.
//
// A rank that has something to do and neither gets on nor looks after a peer is stuck when, for 2 s of looks that came
// on time, it was not for want of a core: a thread of it has computed for 1 s since it last got on (it spins), or none
// wanted a core at any look (it sleeps, or was frozen). All else is a rank that is starved: to be waited for.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "common/base/clock.h"

namespace shoal::agent {

// What a rank's control page says.
struct PageLook {
  bool busy = false;      // it has a plan to execute, or is executing
  uint64_t progress = 0;  // operations, tasks, and looks after a peer: any change is a sign of life
};

// What the kernel says of its process.
struct ProcessLook {
  struct Thread {
    int32_t id = 0;
    DurationNs cpu = 0;    // since it began
    bool running = false;  // on a core, or waiting for one
  };
  std::vector<Thread> threads;
  uint64_t page_faults = 0;  // that had to read: a rank that is swapped in gets on, slowly
};

class StuckJudge {
 public:
  // Between two signs of life at least so much passes; kernels run far less between two tasks (worker/graph).
  static constexpr DurationNs kStandstill = 2 * kSecond;
  static constexpr DurationNs kSpinning = 1 * kSecond;

  // One look, `passed` after the one before, by a clock that does not count what the watcher itself missed. True:
  // stuck. `process` is asked only when the page shows no life.
  bool Look(const PageLook& page, const std::function<ProcessLook()>& process, DurationNs passed);

 private:
  uint64_t progress_ = 0;
  bool still_ = false;                 // the look before saw no life either; then the fields below are valid
  std::map<int32_t, DurationNs> cpu_;  // by thread, when life was last seen
  DurationNs stood_ = 0;               // since then
  DurationNs asleep_ = 0;              // since a thread last wanted a core, or a page was read
  uint64_t page_faults_ = 0;
};

}  // namespace shoal::agent
