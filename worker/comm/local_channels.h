// The channels of ranks that are threads of one process: plain locks and condition variables, for clarity over speed.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "common/base/mutex.h"
#include "worker/comm/collective.h"
#include "worker/comm/local.h"

namespace shoal::comm {

// What all channel ends of one rank share. Its thread only.
struct LocalRank {
  const AbortFlag* abort;
  LocalMode mode;
  int rank;
  CommStats stats = {};

  // One turn of a wait loop: sleeps until `changed` is notified, or for a moment. Aborted, naming `what`, once the
  // rank's abort flag is raised: whoever raises it knows nothing of condition variables, so it is looked at now and
  // then.
  absl::Status Sleep(Mutex& mutex, CondVar& changed, const char* what) SHOAL_REQUIRES(mutex);
};

// The tensor channel of one stage; the ranks' ends share it.
class LocalTensorGroup;
std::shared_ptr<LocalTensorGroup> MakeLocalTensorGroup(int size);
std::unique_ptr<TensorChannel> MakeLocalTensor(std::shared_ptr<LocalTensorGroup> group, int index,
                                               std::shared_ptr<LocalRank> rank);

}  // namespace shoal::comm
