// Writes stall reports to a directory and says in one log line who is to blame, what happens next, and where the report
// is. On a thread of its own: a slow disk holds up nobody.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "coordinator/core/report.h"

namespace shoal::server {

class ReportWriter {
 public:
  static constexpr size_t kKept = 20;    // files in the directory; the oldest go
  static constexpr size_t kQueued = 16;  // reports not written yet; more are dropped, and said to be

  // Empty: nothing is written, only logged. The directory is made when there is something to write.
  explicit ReportWriter(std::string directory);
  ~ReportWriter();  // all that was posted has been written

  // Any thread; never waits for the disk.
  void Post(std::shared_ptr<const core::StallReport> report) SHOAL_EXCLUDES(mutex_);

 private:
  void Run() SHOAL_EXCLUDES(mutex_);
  // The file's path. It appears as a whole or not at all.
  absl::StatusOr<std::string> Write(const core::StallReport& report);
  void Prune() const;

  const std::string directory_;
  uint64_t written_ = 0;  // of the thread

  Mutex mutex_;
  CondVar changed_;
  bool stop_ SHOAL_GUARDED_BY(mutex_) = false;
  std::deque<std::shared_ptr<const core::StallReport>> queue_ SHOAL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace shoal::server
