// NCCL on the host, for tests: ranks are threads or processes of one host with an emulated accelerator each
// (kernels/cuda/emulated), with sockets between them. What NCCL leaves open is decided adversely: a communicator needs
// several looks before it has settled, what was begun reaches its queue at the last of them, nothing is buffered, and
// a rank that is gone is waited for until somebody aborts. Ranks that disagree about a size would read rubbish: here
// their devices fail. A communicator that is used before it has settled is a CHECK.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "common/base/mutex.h"
#include "worker/comm/nccl_api.h"

namespace shoal::comm {

// What the ranks of one process share; outlives them.
class NcclWorld {
 public:
  // From now on every communicator says that a peer is lost, or something worse.
  void Break(const absl::Status& how) SHOAL_EXCLUDES(mutex_);
  absl::Status broken() const SHOAL_EXCLUDES(mutex_);

 private:
  mutable Mutex mutex_;
  absl::Status broken_ SHOAL_GUARDED_BY(mutex_);
};

// Looks that it takes until something has settled.
inline constexpr int kNcclLooks = 2;

// A rank's library. `looks_to_come_up`: of its communicators.
std::unique_ptr<NcclApi> MakeEmulatedNccl(NcclWorld* world, std::string version = "2.28.9",
                                          int looks_to_come_up = kNcclLooks);

}  // namespace shoal::comm
