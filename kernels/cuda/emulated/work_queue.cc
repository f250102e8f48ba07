// Tested by: tests/kernels/cuda/accelerator_test.cc
#include "kernels/cuda/emulated/work_queue.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace shoal::cuda::emulated {

WorkQueue::WorkQueue(Pace pace) : released_(pace == Pace::kEager ? UINT64_MAX : 0), thread_([this] { Run(); }) {}

WorkQueue::~WorkQueue() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
    released_ = UINT64_MAX;
    changed_.NotifyAll();
  }
  thread_.join();
}

absl::Status WorkQueue::Enqueue(const std::string& name, Work work) { return Add({name, std::move(work), true}); }
absl::Status WorkQueue::EnqueueCopy(const std::string& name, Work work) { return Add({name, std::move(work), false}); }

absl::Status WorkQueue::Add(Entry entry) {
  const MutexLock lock(mutex_);
  SHOAL_RETURN_IF_ERROR(error_);
  if (recording_ != nullptr) {
    recording_->push_back(std::move(entry));
  } else {
    Append(std::move(entry));
  }
  return absl::OkStatus();
}

void WorkQueue::Append(Entry entry) {
  if (entry.is_launch && fail_launch_in_ > 0 && --fail_launch_in_ == 0) {
    entry.work = [] { return absl::InternalError("an illegal memory access was encountered"); };
  }
  pending_.push_back(std::move(entry));
  ++enqueued_;
  changed_.NotifyAll();
}

absl::Status WorkQueue::NotCapturing(const char* what) const {
  if (recording_ == nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(what, ": not while a graph is captured"));
}

absl::StatusOr<uint64_t> WorkQueue::Mark() {
  const MutexLock lock(mutex_);
  SHOAL_RETURN_IF_ERROR(error_);
  SHOAL_RETURN_IF_ERROR(NotCapturing("a mark"));
  marks_.push_back(enqueued_);
  return marks_done_ + marks_.size();
}

absl::StatusOr<bool> WorkQueue::Reached(uint64_t mark) {
  const MutexLock lock(mutex_);
  SHOAL_RETURN_IF_ERROR(error_);
  SHOAL_RETURN_IF_ERROR(NotCapturing("asking for a mark"));
  SHOAL_CHECK(mark <= marks_done_ + marks_.size());  // one that was made
  if (mark > marks_done_) {
    const uint64_t before = marks_[mark - marks_done_ - 1];
    if (before > released_) {
      released_ = before;
      changed_.NotifyAll();
    }
  }
  while (!marks_.empty() && marks_.front() <= finished_) {
    marks_.pop_front();
    ++marks_done_;
  }
  return mark <= marks_done_;
}

absl::Status WorkQueue::Synchronise() {
  const MutexLock lock(mutex_);
  SHOAL_RETURN_IF_ERROR(error_);
  SHOAL_RETURN_IF_ERROR(NotCapturing("waiting"));
  const uint64_t all = enqueued_;
  released_ = std::max(released_, all);
  changed_.NotifyAll();
  while (finished_ < all) changed_.Wait(mutex_);
  return error_;
}

absl::Status WorkQueue::BeginCapture() {
  const MutexLock lock(mutex_);
  SHOAL_RETURN_IF_ERROR(error_);
  SHOAL_RETURN_IF_ERROR(NotCapturing("a capture"));
  recording_ = std::make_unique<std::vector<Entry>>();
  return absl::OkStatus();
}

absl::StatusOr<WorkQueue::Recording> WorkQueue::EndCapture() {
  const MutexLock lock(mutex_);
  Recording recording = std::move(recording_);
  SHOAL_RETURN_IF_ERROR(error_);
  if (recording == nullptr) return absl::FailedPreconditionError("no graph is being captured");
  return recording;
}

absl::Status WorkQueue::Launch(const Recording& recording) {
  const MutexLock lock(mutex_);
  SHOAL_RETURN_IF_ERROR(error_);
  SHOAL_RETURN_IF_ERROR(NotCapturing("launching a graph"));
  for (const Entry& entry : *recording) Append(entry);
  return absl::OkStatus();
}

absl::Status WorkQueue::Usable() const {
  const MutexLock lock(mutex_);
  return error_;
}

absl::Status WorkQueue::UsableFor(const char* what) const {
  const MutexLock lock(mutex_);
  SHOAL_RETURN_IF_ERROR(error_);
  return NotCapturing(what);
}

void WorkQueue::Fail(const absl::Status& why) {
  const MutexLock lock(mutex_);
  FailLocked(why);
}

void WorkQueue::FailLocked(const absl::Status& why) {
  if (error_.ok()) error_ = absl::InternalError(why.message());
  finished_ += pending_.size();
  pending_.clear();
  changed_.NotifyAll();
}

void WorkQueue::FailLaunch(int launches) {
  const MutexLock lock(mutex_);
  fail_launch_in_ = launches;
}

uint64_t WorkQueue::enqueued() const {
  const MutexLock lock(mutex_);
  return enqueued_;
}

uint64_t WorkQueue::finished() const {
  const MutexLock lock(mutex_);
  return finished_;
}

void WorkQueue::Run() {
  mutex_.Lock();
  for (;;) {
    // Nothing is pending but what is numbered from finished_ on: this thread runs one at a time.
    while (!stopping_ && (pending_.empty() || finished_ >= released_)) changed_.Wait(mutex_);
    if (pending_.empty()) break;
    Entry entry = std::move(pending_.front());
    pending_.pop_front();
    mutex_.Unlock();
    const absl::Status done = entry.work();
    entry.work = nullptr;  // before anybody learns that it is done
    mutex_.Lock();
    ++finished_;
    if (!done.ok()) FailLocked(absl::InternalError(absl::StrCat(entry.name, ": ", done.message())));
    changed_.NotifyAll();
  }
  mutex_.Unlock();
}

}  // namespace shoal::cuda::emulated
