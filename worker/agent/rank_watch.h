// Looks at the ranks of a group ten times a second, and tells of those that are alive but stuck. One thread; a look
// costs a few loads of shared memory, and reads of /proc only for a rank that shows no life.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "worker/agent/stuck_judge.h"
#include "worker/rank/control_page.h"

namespace shoal::agent {

// What the kernel says of a process now. No threads: it is gone, or cannot be seen.
ProcessLook LookAtProcess(pid_t pid);

// `last_step`: of the last plan that was handed to the rank.
PageLook LookAtPage(const rank::ControlPage& page, uint64_t last_step);

// "stuck in attention at step 7", as plan::RankExit has it.
std::string StuckCause(const rank::ControlPage& page);

class RankWatch {
 public:
  struct Watched {
    pid_t pid = 0;
    const rank::ControlPage* page = nullptr;
    std::function<bool()> gone;      // dead or stopped: that has been told already
    std::function<void()> on_stuck;  // once, from the watch's thread
  };

  // What `ranks` and `last_step` point at outlives the watch.
  RankWatch(std::vector<Watched> ranks, const std::atomic<uint64_t>* last_step);
  ~RankWatch();  // no call runs any more

 private:
  void Run() SHOAL_EXCLUDES(mutex_);

  const std::vector<Watched> ranks_;
  const std::atomic<uint64_t>* const last_step_;
  Mutex mutex_;
  CondVar changed_;
  bool stop_ SHOAL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace shoal::agent
