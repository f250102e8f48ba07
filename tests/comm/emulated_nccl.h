// NCCL on the host, for tests: ranks are threads or processes of one host with an emulated accelerator each
// (kernels/cuda/emulated), with sockets between them. What NCCL leaves open is decided adversely: a communicator needs
// several looks before it has settled, what was begun reaches its queue at the last of them, nothing is buffered, and
// a rank that is gone is waited for until somebody aborts. Ranks that disagree about a size would read rubbish: here
// their devices fail. A communicator that is used before it has settled is a CHECK.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/base/mutex.h"
#include "kernels/cuda/emulated/work_queue.h"
#include "worker/comm/nccl_api.h"

namespace shoal::comm {

// What the ranks of one process share; outlives them.
class NcclWorld {
 public:
  NcclWorld();
  ~NcclWorld();

  // From now on every communicator says that a peer is lost, or something worse.
  void Break(const absl::Status& how) SHOAL_EXCLUDES(mutex_);
  absl::Status broken() const SHOAL_EXCLUDES(mutex_);
  // What is in a queue goes on when nobody has it any more.
  void Leave(std::unique_ptr<cuda::emulated::WorkQueue> queue) SHOAL_EXCLUDES(mutex_);

 private:
  mutable Mutex mutex_;
  absl::Status broken_ SHOAL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<cuda::emulated::WorkQueue>> queues_ SHOAL_GUARDED_BY(mutex_);
};

// A rank's library.
std::unique_ptr<NcclApi> MakeEmulatedNccl(NcclWorld* world, std::string version = "2.28.9");

}  // namespace shoal::comm
