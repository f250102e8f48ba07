#include "coordinator/http/idempotency.h"

#include <sys/random.h>
#include <time.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "coordinator/http/digest.h"
#include "coordinator/http/response_head.h"

namespace shoal::http {
namespace {

// Executions of an earlier process's requests at a time: they must not crowd out clients that are there.
constexpr size_t kResumedAtOnce = 16;
// Crashes that a request may have caused before it is executed no more; as for ranks (core/serving).
constexpr int kMaxSuspects = 3;

constexpr char kReplayed[] = "Idempotent-Replayed";

FixedParts DrawFixedParts() {
  FixedParts fixed;
  SHOAL_CHECK(getrandom(&fixed.seed, sizeof fixed.seed, 0) == static_cast<ssize_t>(sizeof fixed.seed));
  fixed.id = RandomHex(16);
  fixed.created = time(nullptr);
  return fixed;
}

// Lengths first, so that no two pairs give the same text.
journal::Digest KeyDigest(std::string_view scope, std::string_view key) {
  return Sha256(absl::StrCat(scope.size(), ":", std::string(scope), std::string(key)));
}

journal::Digest Fingerprint(bool chat, const std::string& body) { return Sha256((chat ? "chat:" : "text:") + body); }

// 200 and 500 say how the request ended. All else says that it was not executed: the key stays free for another try.
bool IsAnswer(int status) { return status == 200 || status == 500; }

Response BeginError(const journal::Begun& begun) {
  if (begun.outcome == journal::Begun::Outcome::kMismatch) {
    return ErrorResponse(MakeError(ErrorKind::kIdempotencyReuse,
                                   "this Idempotency-Key was used before with another route or body; "
                                   "a new request needs a new key",
                                   "Idempotency-Key"));
  }
  return ErrorResponse(FromStatus(begun.error, 0));
}

}  // namespace

std::optional<std::string> FindIdempotencyKey(const Request& request, ApiError* error) {
  const std::string_view key = request.Header(kIdempotencyKey);
  bool usable = request.Count(kIdempotencyKey) == 1 && !key.empty() && key.size() <= kMaxKeyBytes;
  for (const char c : key) usable = usable && c >= 0x20 && c < 0x7F;
  if (usable) return std::string(key);
  *error = MakeError(
      ErrorKind::kInvalidValue,
      absl::StrCat("the Idempotency-Key must be one header of 1 to ", kMaxKeyBytes, " printable ASCII characters"),
      "Idempotency-Key");
  return std::nullopt;
}

// The client of an execution: nobody, or all who wait. Owned by `running_` until it has its answer.
class Idempotency::KeptResponder final : public Responder {
 public:
  KeptResponder(Idempotency* owner, const journal::Digest& id, std::shared_ptr<Executor> executor, bool resumed)
      : resumed_(resumed), owner_(owner), id_(id), executor_(std::move(executor)) {}

  void SetRoute(std::string_view) override {}
  void Respond(Response response) override { owner_->Ended(id_, std::move(response)); }
  // Streams are refused before they begin.
  void BeginStream() override { SHOAL_CHECK(false && "a kept answer is no stream"); }
  bool Write(std::string_view) override { return false; }
  void End() override {}
  void Break() override {}
  void OnGone(std::function<void()> on_gone) override { on_gone_ = std::move(on_gone); }
  void OnIdle(DurationNs, std::function<void()>) override {}
  std::shared_ptr<Executor> executor() const override { return executor_; }

  // Lets go of the generation, which owns this.
  void Detach() { std::exchange(on_gone_, nullptr); }
  const bool resumed_;

 private:
  Idempotency* const owner_;
  const journal::Digest id_;
  const std::shared_ptr<Executor> executor_;
  std::function<void()> on_gone_;  // never called; holds the generation
};

Idempotency::Idempotency(std::unique_ptr<journal::Journal> journal, const GenerationContext& context, bool after_crash)
    : context_(context), after_crash_(after_crash), journal_(std::move(journal)) {
  left_.assign(journal_->unfinished().begin(), journal_->unfinished().end());
}

Idempotency::~Idempotency() {
  journal_->Stop();
  MutexLock lock(mutex_);
  for (const auto& [id, responder] : running_) responder->Detach();
}

void Idempotency::Handle(bool chat, std::string_view scope, std::string key, Request request,
                         std::shared_ptr<Responder> responder) {
  // Digests of a megabyte are no work for an I/O thread.
  auto job = [this, chat, scope = std::string(scope), key = std::move(key), body = std::move(request.body),
              arrived = request.arrived, weak = std::weak_ptr<Responder>(responder),
              executor = responder->executor()]() mutable {
    const journal::Digest id = KeyDigest(scope, key);
    const journal::Digest fingerprint = Fingerprint(chat, body);
    Begin(id, fingerprint, {chat, DrawFixedParts(), std::move(body)}, arrived, {weak, executor, false});
  };
  if (!context_.pool->Submit(std::move(job))) {
    RespondError(MakeError(ErrorKind::kOverloaded, "too many requests wait for tokenisation; try again shortly"),
                 responder.get());
  }
}

void Idempotency::Begin(const journal::Digest& id, const journal::Digest& fingerprint, KeptRequest kept, TimeNs arrived,
                        Waiter waiter) {
  std::string bytes = EncodeKept(kept);
  journal_->Begin(
      id, fingerprint, std::move(bytes),
      [this, id, kept = std::move(kept), arrived, waiter = std::move(waiter)](journal::Begun begun) mutable {
        OnBegun(id, std::move(kept), arrived, std::move(waiter), std::move(begun));
      });
}

// On the journal's thread, as are all ends of entries: who is told that one runs is in the list before its end looks
// for those who wait.
void Idempotency::OnBegun(const journal::Digest& id, KeptRequest kept, TimeNs arrived, Waiter waiter,
                          journal::Begun begun) {
  using Outcome = journal::Begun::Outcome;
  if (begun.outcome == Outcome::kAccepted) {
    const std::shared_ptr<Executor> executor = waiter.executor;
    Wait(id, std::move(waiter));
    return executor->Post([this, id, kept = std::move(kept), arrived, executor]() mutable {
      Execute(id, std::move(kept), arrived, executor, /*resumed=*/false);
    });
  }
  waiter.replay = true;
  if (begun.outcome == Outcome::kRunning) return Wait(id, std::move(waiter));
  if (begun.outcome == Outcome::kFinished) {
    std::optional<Response> answer = DecodeKeptResponse(begun.answer);
    if (answer.has_value()) return Send(waiter, std::move(*answer));
    begun = {Outcome::kFailed, {}, absl::UnavailableError("the answer in the journal cannot be read by this version")};
  }
  waiter.replay = false;
  Send(waiter, BeginError(begun));
}

void Idempotency::Execute(const journal::Digest& id, KeptRequest kept, TimeNs arrived,
                          std::shared_ptr<Executor> executor, bool resumed) {
  auto responder = std::make_shared<KeptResponder>(this, id, std::move(executor), resumed);
  {
    MutexLock lock(mutex_);
    running_[id] = responder;
  }
  Request request;
  request.body = std::move(kept.body);
  request.arrived = arrived;
  Generation::Start(context_, kept.chat, std::move(request), responder, std::move(kept.fixed));
}

void Idempotency::Ended(const journal::Digest& id, Response response) {
  std::shared_ptr<KeptResponder> responder;
  {
    MutexLock lock(mutex_);
    const auto found = running_.find(id);
    SHOAL_CHECK(found != running_.end());
    responder = std::move(found->second);
    running_.erase(found);
  }
  responder->Detach();
  if (IsAnswer(response.status)) {
    Finish(id, std::move(response));
  } else if (draining_.load() && response.status == 503) {
    Answer(id, response);
  } else {
    journal_->Forget(id, [this, id, response = std::move(response)] { Answer(id, response); });
  }
  if (responder->resumed_) ResumeNext();
}

void Idempotency::Finish(const journal::Digest& id, Response response) {
  std::string bytes = EncodeKept(response);
  journal_->Finish(id, std::move(bytes), [this, id, response = std::move(response)](const absl::Status& kept) {
    Answer(id, kept.ok() ? response : ErrorResponse(FromStatus(kept, 0)));
  });
}

void Idempotency::Resume(std::shared_ptr<Executor> executor) {
  {
    MutexLock lock(mutex_);
    resume_on_ = std::move(executor);
  }
  for (size_t i = 0; i < (after_crash_ ? 1 : kResumedAtOnce); ++i) ResumeNext();
}

void Idempotency::ResumeNext() {
  journal::Digest id;
  std::shared_ptr<Executor> executor;
  {
    MutexLock lock(mutex_);
    if (left_.empty()) return;
    id = left_.front();
    left_.pop_front();
    executor = resume_on_;
  }
  journal_->BeginAgain(id, after_crash_, [this, id, executor](const absl::StatusOr<journal::Again>& again) {
    OnBegunAgain(id, again, executor);
  });
}

void Idempotency::OnBegunAgain(const journal::Digest& id, const absl::StatusOr<journal::Again>& again,
                               const std::shared_ptr<Executor>& executor) {
  std::optional<KeptRequest> kept;
  if (again.ok()) kept = DecodeKeptRequest(again->request);
  if (!kept.has_value()) {
    journal_->Forget(id, [this, id] {
      Answer(id, ErrorResponse(MakeError(ErrorKind::kUnavailable, "the request in the journal cannot be read")));
    });
    return ResumeNext();
  }
  if (again->suspects >= kMaxSuspects) {
    Response poisoned = ErrorResponse(MakeError(
        ErrorKind::kInternal, "poisoned: the server died each time that it executed this request, and will not again"));
    poisoned.headers.emplace_back("X-Should-Retry", "false");
    Finish(id, std::move(poisoned));
    return ResumeNext();
  }
  executor->Post([this, id, kept = std::move(*kept), executor]() mutable {
    Execute(id, std::move(kept), RealClock().Now(), executor, /*resumed=*/true);
  });
}

void Idempotency::TurnAwayWaiting() {
  std::vector<journal::Digest> left;
  {
    MutexLock lock(mutex_);
    if (resume_on_ != nullptr) return;
    left.assign(left_.begin(), left_.end());
  }
  const Response away = ErrorResponse(MakeError(
      ErrorKind::kUnavailable, "there is no group of ranks to make the answer; it will be made once there is"));
  for (const journal::Digest& id : left) Answer(id, away);
}

size_t Idempotency::executions() {
  MutexLock lock(mutex_);
  return running_.size();
}

void Idempotency::Wait(const journal::Digest& id, Waiter waiter) {
  MutexLock lock(mutex_);
  waiters_[id].push_back(std::move(waiter));
}

void Idempotency::Answer(const journal::Digest& id, const Response& response) {
  std::vector<Waiter> waiters;
  {
    MutexLock lock(mutex_);
    const auto found = waiters_.find(id);
    if (found == waiters_.end()) return;
    waiters = std::move(found->second);
    waiters_.erase(found);
  }
  for (const Waiter& waiter : waiters) Send(waiter, response);
}

void Idempotency::Send(const Waiter& waiter, Response response) {
  if (waiter.replay && IsAnswer(response.status)) response.headers.emplace_back(kReplayed, "true");
  auto shared = std::make_shared<Response>(std::move(response));
  waiter.executor->Post([responder = waiter.responder, shared] {
    if (const auto alive = responder.lock()) alive->Respond(std::move(*shared));
  });
}

}  // namespace shoal::http
