// Accepted requests and their answers on disk, without waiting for it: a thread around a Store. Operations are carried
// out in the order of the calls; one sync serves all that wait for one. Thread-safe.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/base/mutex.h"
#include "coordinator/journal/batch.h"
#include "coordinator/journal/store.h"

namespace shoal::journal {

// What it shows of itself.
struct JournalFigures {
  uint64_t entries = 0;  // with and without an answer
  int64_t bytes = 0;     // of the file
  // Beginnings since this process started: what was recorded, what had been begun before (and gets that answer), and
  // what was refused because all entries still run.
  uint64_t accepted = 0, again = 0, full = 0;
};

class Journal {
 public:
  // Errors as of Store::Open.
  static absl::StatusOr<std::unique_ptr<Journal>> Open(StoreOptions options);
  ~Journal();  // Stop()

  // Callbacks run on the journal's thread, in the order of the calls, once what they tell is on disk. They hand over
  // and return.
  void Begin(const Digest& id, const Digest& fingerprint, std::string request, std::function<void(Begun)> done);
  // Of an entry that runs; once.
  void Finish(const Digest& id, std::string answer, std::function<void(absl::Status)> done);
  void Forget(const Digest& id, std::function<void()> done);
  void BeginAgain(const Digest& id, bool suspect, std::function<void(absl::StatusOr<Again>)> done);

  // Carries out what was asked for, also by callbacks meanwhile; then none runs any more. Once; nothing may follow.
  void Stop() SHOAL_EXCLUDES(mutex_);

  JournalFigures figures() const;  // as of the last round

  // As found at the start: entries without an answer, in order; bytes of a torn tail.
  const std::vector<Digest>& unfinished() const { return unfinished_; }
  int64_t cut_bytes() const { return cut_bytes_; }

 private:
  explicit Journal(std::unique_ptr<Store> store);
  void Run() SHOAL_EXCLUDES(mutex_);
  void Count(const Begun& begun);
  void Measure();

  const std::unique_ptr<Store> store_;  // the thread's own
  const std::vector<Digest> unfinished_;
  const int64_t cut_bytes_;
  std::atomic<uint64_t> entries_{0}, accepted_{0}, again_{0}, full_{0};
  std::atomic<int64_t> bytes_{0};

  Mutex mutex_;
  CondVar changed_;
  Batch queue_ SHOAL_GUARDED_BY(mutex_);
  bool stop_ SHOAL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace shoal::journal
