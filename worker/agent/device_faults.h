// Ranks under which a device has failed. The next process in such a place looks at each operation, so that the fault is
// named if it comes again. Thread-safe.
#pragma once

#include <cstdint>
#include <set>

#include "common/base/mutex.h"

namespace shoal::agent {

class DeviceFaults {
 public:
  void Note(int32_t rank) SHOAL_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    ranks_.insert(rank);
  }
  // Whether it was noted since it was last asked for.
  bool Take(int32_t rank) SHOAL_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return ranks_.erase(rank) > 0;
  }

 private:
  Mutex mutex_;
  std::set<int32_t> ranks_ SHOAL_GUARDED_BY(mutex_);
};

}  // namespace shoal::agent
