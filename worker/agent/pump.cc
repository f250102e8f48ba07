#include "worker/agent/pump.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace shoal::agent {

void Outbox::Push(Answer answer) {
  MutexLock lock(mutex_);
  if (closed_) return;
  if (sink_ != nullptr) {
    sink_->Send(std::move(answer));
  } else {
    kept_.push_back(std::move(answer));
  }
}

bool Outbox::Attach(std::shared_ptr<AnswerSink> sink) {
  MutexLock lock(mutex_);
  if (closed_) return false;
  if (sink_ != nullptr) sink_->End(absl::AbortedError("another step stream has been opened"));
  sink_ = std::move(sink);
  for (Answer& answer : kept_) sink_->Send(std::move(answer));
  kept_.clear();
  return true;
}

void Outbox::Detach(const AnswerSink* sink) {
  std::shared_ptr<AnswerSink> gone;  // destroyed outside the lock
  MutexLock lock(mutex_);
  if (sink_.get() == sink) gone = std::move(sink_);
}

void Outbox::Close(const absl::Status& status) {
  std::shared_ptr<AnswerSink> sink;
  {
    MutexLock lock(mutex_);
    closed_ = true;
    sink = std::move(sink_);
    kept_.clear();
  }
  if (sink != nullptr) sink->End(status);
}

ResultPump::ResultPump(plan::RingReader ring, plan::RankExit if_spoilt, Outbox* outbox)
    : ring_(std::move(ring)), if_spoilt_(std::move(if_spoilt)), outbox_(outbox), thread_([this] { Run(); }) {}

ResultPump::~ResultPump() {
  stop_.store(true, std::memory_order_release);
  ring_.Wake();
  thread_.join();
}

void ResultPump::Run() {
  while (true) {
    absl::StatusOr<plan::Record> record = ring_.Next(-1, &stop_);
    if (absl::IsCancelled(record.status())) return;
    if (!record.ok() || record->kind != plan::RecordKind::kResult) {
      plan::RankExit exit = if_spoilt_;
      exit.cause = absl::StrCat("spoilt its result ring: ", record.ok() ? "no result" : record.status().message());
      outbox_->Push(std::move(exit));
      return;
    }
    outbox_->Push(ResultBytes{record->stamp, if_spoilt_.rank, std::move(record->payload)});
  }
}

}  // namespace shoal::agent
