#include "coordinator/journal/journal.h"

#include <utility>

#include "common/base/status_macros.h"

namespace shoal::journal {

absl::StatusOr<std::unique_ptr<Journal>> Journal::Open(StoreOptions options) {
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<Store> store, Store::Open(std::move(options)));
  return std::unique_ptr<Journal>(new Journal(std::move(store)));
}

Journal::Journal(std::unique_ptr<Store> store)
    : store_(std::move(store)), unfinished_(store_->Unfinished()), cut_bytes_(store_->cut_bytes()) {
  Measure();
  thread_ = std::thread([this] { Run(); });
}

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
    const absl::Status synced = batch.Write(*store_);
    Measure();
    batch.Tell(*store_, synced);
  }
}

void Journal::Begin(const Digest& id, const Digest& fingerprint, std::string request, std::function<void(Begun)> done) {
  auto counted = [this, done = std::move(done)](Begun begun) {
    Count(begun);
    done(std::move(begun));
  };
  {
    MutexLock lock(mutex_);
    queue_.Begin(id, fingerprint, std::move(request), std::move(counted));
  }
  changed_.NotifyOne();
}

void Journal::Count(const Begun& begun) {
  using Outcome = Begun::Outcome;
  const auto add = [](std::atomic<uint64_t>& count) { count.fetch_add(1, std::memory_order_relaxed); };
  if (begun.outcome == Outcome::kAccepted) add(accepted_);
  if (begun.outcome == Outcome::kRunning || begun.outcome == Outcome::kFinished) add(again_);
  if (begun.outcome == Outcome::kFailed && absl::IsResourceExhausted(begun.error)) add(full_);
}

void Journal::Measure() {
  entries_.store(store_->entries(), std::memory_order_relaxed);
  bytes_.store(store_->file_bytes(), std::memory_order_relaxed);
}

JournalFigures Journal::figures() const {
  return {entries_.load(std::memory_order_relaxed), bytes_.load(std::memory_order_relaxed),
          accepted_.load(std::memory_order_relaxed), again_.load(std::memory_order_relaxed),
          full_.load(std::memory_order_relaxed)};
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
