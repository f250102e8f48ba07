// Whether the group gets on with its work, judged from one state of the cluster after the other. A plan that was sent
// is none: a single step may take long, and only what ranks say tells that from a step that stands still. Not
// thread-safe.
#pragma once

#include <cstdint>

#include "coordinator/core/core.h"

namespace shoal::server {

class ProgressWatch {
 public:
  // Since the state before this one an answer was accepted, or a rank got on (its `step` or `progress` changed); or
  // there is nothing to get on with: no request and no canary, or no group.
  bool Moved(const core::ClusterState& state);

 private:
  uint64_t seen_ = 0;
};

}  // namespace shoal::server
