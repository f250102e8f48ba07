#include "worker/agent/stuck_judge.h"

#include <algorithm>
#include <utility>

namespace shoal::agent {

bool StuckJudge::Look(const PageLook& page, const std::function<ProcessLook()>& process, DurationNs passed) {
  const bool moved = std::exchange(progress_, page.progress) != page.progress;
  if (moved || !page.busy) {
    still_ = false;
    return false;
  }
  const ProcessLook look = process();
  if (!std::exchange(still_, true)) {
    cpu_.clear();
    stood_ = asleep_ = 0;
    page_faults_ = look.page_faults;
  }
  stood_ += passed;
  asleep_ += passed;
  DurationNs computed = 0;  // of the thread that computed most
  for (const ProcessLook::Thread& thread : look.threads) {
    const auto since = cpu_.emplace(thread.id, thread.cpu).first;
    computed = std::max(computed, thread.cpu - since->second);
    if (thread.running) asleep_ = 0;
  }
  if (std::exchange(page_faults_, look.page_faults) != look.page_faults) asleep_ = 0;
  // Nothing is known of a process that shows no threads: it is ending, and its end is told by other means.
  if (look.threads.empty()) asleep_ = 0;
  return stood_ >= kStandstill && (computed >= kSpinning || asleep_ >= kStandstill);
}

}  // namespace shoal::agent
