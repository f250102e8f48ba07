// The deadline of plans: while some are unanswered and no rank gets on, time is counted, but only while our own timer
// runs on schedule. Pure. A rank that is busy is its agent's to judge, who sees whether it has a core; should that
// fail, it has six times as long.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "coordinator/core/core.h"

namespace shoal::core {

class StallWatch {
 public:
  explicit StallWatch(DurationNs deadline) : deadline_(deadline) {}

  // After every event: whether plans are unanswered.
  void Expect(bool unanswered, TimeNs now);
  TimeNs NextTimer() const { return next_tick_; }  // 0: none wanted

  struct Stall {
    int32_t rank = -1;  // the one to blame, when it is one
    std::string why;    // names those that wait for nobody, or who waits for whom
  };
  // Looks when its time has come. `state`: of a ready group; `last_sent`: step.
  std::optional<Stall> Tick(const ClusterState& state, uint64_t last_sent, TimeNs now);

 private:
  const DurationNs deadline_;
  TimeNs last_tick_ = 0, next_tick_ = 0;
  DurationNs stood_ = 0;
  uint64_t seen_ = 0;
};

}  // namespace shoal::core
