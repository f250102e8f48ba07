// From ranks to the coordinator: a thread per result ring, and the outbox that all of them write to.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <variant>

#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "common/plan/control.h"
#include "common/plan/ring.h"

namespace shoal::agent {

// An encoded StepResult, as the rank wrote it.
struct ResultBytes {
  plan::Stamp stamp;
  int32_t rank = 0;
  std::string bytes;
};
using Answer = std::variant<ResultBytes, plan::RankExit>;

// Where answers go. Calls come one at a time.
class AnswerSink {
 public:
  virtual ~AnswerSink() = default;
  virtual void Send(Answer answer) = 0;  // never waits
  virtual void End(const absl::Status& status) = 0;
};

// Keeps answers until a step stream carries them. Thread-safe.
class Outbox {
 public:
  void Push(Answer answer) SHOAL_EXCLUDES(mutex_);
  // What has been kept goes first. Replaces the former sink, which is ended. False, and nothing is kept, after Close().
  bool Attach(std::shared_ptr<AnswerSink> sink) SHOAL_EXCLUDES(mutex_);
  void Detach(const AnswerSink* sink) SHOAL_EXCLUDES(mutex_);
  // Ends the sink; later answers are dropped.
  void Close(const absl::Status& status) SHOAL_EXCLUDES(mutex_);

 private:
  Mutex mutex_;
  bool closed_ SHOAL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<AnswerSink> sink_ SHOAL_GUARDED_BY(mutex_);
  std::deque<Answer> kept_ SHOAL_GUARDED_BY(mutex_);
};

// Forwards a rank's results until it is destroyed; then what is still in the ring goes too. A ring that its rank has
// spoilt is reported as the rank's exit.
class ResultPump {
 public:
  ResultPump(plan::RingReader ring, plan::RankExit if_spoilt, Outbox* outbox);
  ~ResultPump();

 private:
  void Run();

  plan::RingReader ring_;
  const plan::RankExit if_spoilt_;
  Outbox* const outbox_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace shoal::agent
