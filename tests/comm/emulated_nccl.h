// NCCL on the host, for tests: the ranks are threads of one process with an emulated accelerator each
// (kernels/cuda/emulated). What NCCL leaves open is decided adversely: a communicator needs several looks before it has
// settled, what was begun reaches its queue at the last of them, and nothing is buffered: a send is done when it was
// received. Where NCCL's ranks that disagree would hang or read rubbish, their devices fail; a communicator that is
// used before it has settled is a CHECK.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/mutex.h"
#include "kernels/cuda/emulated/work_queue.h"
#include "worker/comm/nccl_api.h"

namespace shoal::comm {

class NcclMeeting;  // of a communicator's ranks

// What all ranks share; outlives them.
class NcclWorld {
 public:
  NcclWorld();
  ~NcclWorld();

  NcclId MakeId() SHOAL_EXCLUDES(mutex_);
  // Null: nobody has made that id, or for another size.
  std::shared_ptr<NcclMeeting> Meet(const NcclId& id, int size) SHOAL_EXCLUDES(mutex_);
  // From now on every communicator says that a peer is lost, or something worse.
  void Break(const absl::Status& how) SHOAL_EXCLUDES(mutex_);
  absl::Status broken() const SHOAL_EXCLUDES(mutex_);
  // What is in a queue goes on when nobody has it any more.
  void Leave(std::unique_ptr<cuda::emulated::WorkQueue> queue) SHOAL_EXCLUDES(mutex_);

 private:
  mutable Mutex mutex_;
  uint64_t ids_ SHOAL_GUARDED_BY(mutex_) = 0;
  std::map<NcclId, std::shared_ptr<NcclMeeting>> meetings_ SHOAL_GUARDED_BY(mutex_);
  absl::Status broken_ SHOAL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<cuda::emulated::WorkQueue>> queues_ SHOAL_GUARDED_BY(mutex_);
};

// A rank's library.
std::unique_ptr<NcclApi> MakeEmulatedNccl(NcclWorld* world, std::string version = "2.28.9");

}  // namespace shoal::comm
