#include "coordinator/journal/journal.h"

#include <utility>

#include "common/base/status_macros.h"

namespace shoal::journal {

absl::StatusOr<std::unique_ptr<Journal>> Journal::Open(StoreOptions options) {
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<Store> store, Store::Open(std::move(options)));
  return std::unique_ptr<Journal>(new Journal(std::move(store)));
}

Journal::Journal(std::unique_ptr<Store> store)
    : store_(std::move(store)),
      unfinished_(store_->Unfinished()),
      cut_bytes_(store_->cut_bytes()),
      thread_([this] { Run(); }) {}

Journal::~Journal() { Stop(); }

void Journal::Stop() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
  }
  changed_.NotifyAll();
  if (thread_.joinable()) thread_.join();
}

void Journal::Run() {
  for (;;) {
    Batch batch;
    {
      MutexLock lock(mutex_);
      while (queue_.empty() && !stop_) changed_.Wait(mutex_);
      if (queue_.empty()) return;
      batch.swap(queue_);
    }
    batch.Commit(*store_);
  }
}

void Journal::Begin(const Digest& id, const Digest& fingerprint, std::string request, std::function<void(Begun)> done) {
  {
    MutexLock lock(mutex_);
    queue_.Begin(id, fingerprint, std::move(request), std::move(done));
  }
  changed_.NotifyOne();
}

void Journal::Finish(const Digest& id, std::string answer, std::function<void(absl::Status)> done) {
  {
    MutexLock lock(mutex_);
    queue_.Finish(id, std::move(answer), std::move(done));
  }
  changed_.NotifyOne();
}

void Journal::Forget(const Digest& id, std::function<void()> done) {
  {
    MutexLock lock(mutex_);
    queue_.Forget(id, std::move(done));
  }
  changed_.NotifyOne();
}

void Journal::BeginAgain(const Digest& id, bool suspect, std::function<void(absl::StatusOr<Again>)> done) {
  {
    MutexLock lock(mutex_);
    queue_.BeginAgain(id, suspect, std::move(done));
  }
  changed_.NotifyOne();
}

}  // namespace shoal::journal
