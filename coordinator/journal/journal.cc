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

void Journal::Push(Operation operation) {
  {
    MutexLock lock(mutex_);
    queue_.push_back(std::move(operation));
  }
  changed_.NotifyOne();
}

void Journal::Run() {
  for (;;) {
    std::vector<Operation> batch;
    {
      MutexLock lock(mutex_);
      while (queue_.empty() && !stop_) changed_.Wait(mutex_);
      if (queue_.empty()) return;
      batch.swap(queue_);
    }
    for (const Operation& operation : batch) operation.act(*store_);
    const absl::Status synced = store_->Sync();
    Measure();
    for (const Operation& operation : batch) operation.tell(*store_, synced);
  }
}

void Journal::Begin(const Digest& id, const Digest& fingerprint, std::string request, std::function<void(Begun)> done) {
  auto begun = std::make_shared<Begun>();
  Push({[=, request = std::move(request)](Store& store) { *begun = store.Begin(id, fingerprint, request); },
        [=, this, done = std::move(done)](Store& store, const absl::Status& synced) {
          // Found in the same round as the entry itself, what runs or has its answer is as uncertain as that.
          const bool counts = begun->outcome == Begun::Outcome::kAccepted ||
                              begun->outcome == Begun::Outcome::kRunning || begun->outcome == Begun::Outcome::kFinished;
          if (!synced.ok() && counts) {
            if (begun->outcome == Begun::Outcome::kAccepted) store.Undo(id);
            *begun = {Begun::Outcome::kFailed, {}, synced};
          }
          Count(*begun);
          done(std::move(*begun));
        }});
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
  auto finished = std::make_shared<absl::Status>();
  Push({[=, answer = std::move(answer)](Store& store) { *finished = store.Finish(id, answer); },
        [=, done = std::move(done)](Store& store, const absl::Status& synced) {
          if (finished->ok() && !synced.ok()) {
            store.Undo(id);
            *finished = synced;
          }
          done(*finished);
        }});
}

void Journal::Forget(const Digest& id, std::function<void()> done) {
  Push({[=](Store& store) { store.Forget(id); }, [done = std::move(done)](Store&, const absl::Status&) { done(); }});
}

void Journal::BeginAgain(const Digest& id, bool suspect, std::function<void(absl::StatusOr<Again>)> done) {
  auto begun = std::make_shared<absl::StatusOr<Again>>(absl::UnknownError(""));
  Push({[=](Store& store) { *begun = store.BeginAgain(id, suspect); },
        [=, done = std::move(done)](Store&, const absl::Status& synced) {
          if (suspect && begun->ok() && !synced.ok()) *begun = synced;
          done(std::move(*begun));
        }});
}

}  // namespace shoal::journal
