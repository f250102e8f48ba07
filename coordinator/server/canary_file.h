// What canaries have to answer, kept beside the journal: a coordinator that comes after another one, in the same
// directory, compares with what that one learned. A file that is damaged is said to be, and counts as none.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "coordinator/core/canary.h"

namespace shoal::server {

class CanaryFile {
 public:
  // The newest; the core has as much room again for what one process learns.
  static constexpr size_t kKept = core::kMaxKnownCanaries / 2;
  static constexpr size_t kMaxBytes = 64 << 10;  // a longer file is none of ours

  // Reads DIRECTORY/canaries. Empty: nothing is kept.
  explicit CanaryFile(std::string directory);

  // The newest last.
  std::vector<core::KnownCanary> Known() const SHOAL_EXCLUDES(mutex_);
  // Any thread; never waits for the disk.
  void Learn(core::KnownCanary known) SHOAL_EXCLUDES(mutex_);
  // Writes what was learned since the last call, if anything; the file appears as a whole or not at all. What cannot be
  // written is said, and not tried again before more is learned. One thread at a time.
  void Flush() SHOAL_EXCLUDES(mutex_);

 private:
  absl::StatusOr<std::vector<core::KnownCanary>> Read() const;
  absl::Status Write(const std::vector<core::KnownCanary>& known) const;

  const std::string directory_, path_;
  mutable Mutex mutex_;
  std::vector<core::KnownCanary> known_ SHOAL_GUARDED_BY(mutex_);
  bool changed_ SHOAL_GUARDED_BY(mutex_) = false;
};

}  // namespace shoal::server
