// Requests that bring an Idempotency-Key: executed once, whoever asks and whatever dies; the one answer goes to all who
// bring the key with the same body. Thread-safe.
#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/mutex.h"
#include "coordinator/http/generation.h"
#include "coordinator/http/kept.h"
#include "coordinator/journal/journal.h"

namespace shoal::http {

inline constexpr std::string_view kIdempotencyKey = "idempotency-key";
inline constexpr size_t kMaxKeyBytes = 255;

// The request's key: one header of 1 to 255 printable characters. Nothing, with `error` set, for any other.
std::optional<std::string> FindIdempotencyKey(const Request& request, ApiError* error);

class Idempotency {
 public:
  // What `context` points to outlives this; so do the I/O threads of all executors that are given to it.
  // `after_crash`: the earlier process died of itself, maybe of what it executed. Then what it left is executed one at
  // a time, and what was so executed at three crashes not again: its answer is a 500.
  Idempotency(std::unique_ptr<journal::Journal> journal, const GenerationContext& context, bool after_crash);
  ~Idempotency();

  // Answers a request with this key. `scope`: whose key it is; keys of one scope mean nothing in another. A client that
  // goes does not end the execution.
  void Handle(bool chat, std::string_view scope, std::string key, Request request,
              std::shared_ptr<Responder> responder);

  // Executes what an earlier process accepted and did not answer, a few at a time, on `executor`'s thread. Once.
  void Resume(std::shared_ptr<Executor> executor);
  // Until Resume: those who wait for such an answer get a 503; it will still be made.
  void TurnAwayWaiting();

  // Requests that are being executed. Thread-safe.
  size_t executions() SHOAL_EXCLUDES(mutex_);
  journal::JournalFigures figures() const { return journal_->figures(); }

  // From now on a 503 is no end of a request: it is left for the next process.
  void Drain() { draining_.store(true); }

 private:
  class KeptResponder;
  struct Waiter {
    std::weak_ptr<Responder> responder;  // its exchange owns it
    std::shared_ptr<Executor> executor;
    bool replay;  // it did not start the execution
  };

  void Begin(const journal::Digest& id, const journal::Digest& fingerprint, KeptRequest kept, TimeNs arrived,
             Waiter waiter);
  void OnBegun(const journal::Digest& id, KeptRequest kept, TimeNs arrived, Waiter waiter, journal::Begun begun);
  void Execute(const journal::Digest& id, KeptRequest kept, TimeNs arrived, std::shared_ptr<Executor> executor,
               bool resumed);
  void Ended(const journal::Digest& id, Response response);
  void ResumeNext();
  void OnBegunAgain(const journal::Digest& id, const absl::StatusOr<journal::Again>& again,
                    const std::shared_ptr<Executor>& executor);
  void Finish(const journal::Digest& id, Response response);
  void Wait(const journal::Digest& id, Waiter waiter) SHOAL_EXCLUDES(mutex_);
  // To all who wait for it.
  void Answer(const journal::Digest& id, const Response& response) SHOAL_EXCLUDES(mutex_);
  static void Send(const Waiter& waiter, Response response);

  const GenerationContext context_;
  const bool after_crash_;
  std::atomic<bool> draining_{false};

  Mutex mutex_;
  std::map<journal::Digest, std::vector<Waiter>> waiters_ SHOAL_GUARDED_BY(mutex_);
  std::map<journal::Digest, std::shared_ptr<KeptResponder>> running_ SHOAL_GUARDED_BY(mutex_);
  std::deque<journal::Digest> left_ SHOAL_GUARDED_BY(mutex_);     // of an earlier process, not yet begun again
  std::shared_ptr<Executor> resume_on_ SHOAL_GUARDED_BY(mutex_);  // null: not yet

  const std::unique_ptr<journal::Journal> journal_;
};

}  // namespace shoal::http
