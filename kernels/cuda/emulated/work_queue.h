// The queue of an emulated accelerator: a thread of its own runs the work in order. One thread enqueues; what has no
// word about it here is thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "kernels/cuda/emulated/queue.h"

namespace shoal::cuda::emulated {

enum class Pace : uint8_t {
  kEager,  // work runs as soon as its turn comes
  kLazy,   // and not before somebody waits for it or asks for a mark behind it
};

class WorkQueue final : public Queue {
 public:
  struct Entry {
    std::string name;
    Work work;
    bool is_launch;
  };
  using Recording = std::shared_ptr<const std::vector<Entry>>;

  explicit WorkQueue(Pace pace);
  ~WorkQueue() override;  // runs what is there

  absl::Status Enqueue(const std::string& name, Work work) override SHOAL_EXCLUDES(mutex_);
  // The same of what no launch is.
  absl::Status EnqueueCopy(const std::string& name, Work work) SHOAL_EXCLUDES(mutex_);

  // As ops::Accelerator has them. FailedPrecondition: they are not allowed while a graph is captured, or only then.
  absl::StatusOr<uint64_t> Mark() SHOAL_EXCLUDES(mutex_);
  absl::StatusOr<bool> Reached(uint64_t mark) SHOAL_EXCLUDES(mutex_);
  absl::Status Synchronise() SHOAL_EXCLUDES(mutex_);
  absl::Status BeginCapture() SHOAL_EXCLUDES(mutex_);
  absl::StatusOr<Recording> EndCapture() SHOAL_EXCLUDES(mutex_);
  absl::Status Launch(const Recording& recording) SHOAL_EXCLUDES(mutex_);

  // What every call says now: OK, or why the device has failed.
  absl::Status Usable() const SHOAL_EXCLUDES(mutex_);
  // The same for a call (`what`) that no capture allows.
  absl::Status UsableFor(const char* what) const SHOAL_EXCLUDES(mutex_);
  // The device fails, unless it has before; what is enqueued never runs.
  void Fail(const absl::Status& why) SHOAL_EXCLUDES(mutex_);
  // The `launches`-th launch from now fails when it runs (1: the next).
  void FailLaunch(int launches) SHOAL_EXCLUDES(mutex_);

  // Pieces of work that were enqueued, and those of them that are done or never will be.
  uint64_t enqueued() const SHOAL_EXCLUDES(mutex_);
  uint64_t finished() const SHOAL_EXCLUDES(mutex_);

 private:
  absl::Status Add(Entry entry) SHOAL_EXCLUDES(mutex_);
  void Append(Entry entry) SHOAL_REQUIRES(mutex_);
  absl::Status NotCapturing(const char* what) const SHOAL_REQUIRES(mutex_);
  void FailLocked(const absl::Status& why) SHOAL_REQUIRES(mutex_);
  void Run() SHOAL_EXCLUDES(mutex_);

  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<Entry> pending_ SHOAL_GUARDED_BY(mutex_);
  uint64_t enqueued_ SHOAL_GUARDED_BY(mutex_) = 0, finished_ SHOAL_GUARDED_BY(mutex_) = 0;
  uint64_t released_ SHOAL_GUARDED_BY(mutex_);  // work may begin whose number is below
  bool stopping_ SHOAL_GUARDED_BY(mutex_) = false;
  absl::Status error_ SHOAL_GUARDED_BY(mutex_);

  // Of each mark from `marks_done_` + 1 on: how much was enqueued before it.
  std::deque<uint64_t> marks_ SHOAL_GUARDED_BY(mutex_);
  uint64_t marks_done_ SHOAL_GUARDED_BY(mutex_) = 0;
  std::unique_ptr<std::vector<Entry>> recording_ SHOAL_GUARDED_BY(mutex_);
  int fail_launch_in_ SHOAL_GUARDED_BY(mutex_) = 0;

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace shoal::cuda::emulated
