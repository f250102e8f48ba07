#include "tests/cluster/harness/engines.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace shoal::testing {

void PlanQueue::Push(const plan::StepPlan& plan) {
  MutexLock lock(mutex_);
  plans_.emplace_back(plan, clock_.Now());
  changed_.NotifyAll();
}

void PlanQueue::Close() {
  MutexLock lock(mutex_);
  closed_ = true;
  changed_.NotifyAll();
}

absl::Status PlanQueue::Next(plan::StepPlan* plan, TimeNs* arrived) {
  MutexLock lock(mutex_);
  while (plans_.empty() && !closed_) changed_.Wait(mutex_);
  if (plans_.empty()) return absl::CancelledError("no more plans");
  std::tie(*plan, *arrived) = std::move(plans_.front());
  plans_.pop_front();
  return absl::OkStatus();
}

bool PlanQueue::HasNext() const {
  MutexLock lock(mutex_);
  return !plans_.empty();
}

Engines::Engines(RankSet& ranks, int checked_steps)
    : ranks_(ranks), queues_(ranks.size()), provoke_fault_(ranks.size()) {
  {
    MutexLock lock(mutex_);
    running_ = ranks.size();
    ended_.resize(ranks.size());
    checksums_.resize(ranks.size());
  }
  const plan::ShardPlan& plan = ranks.shards().plan;
  for (int r = 0; r < ranks.size(); ++r) {
    threads_.emplace_back([this, r, checked_steps, &plan] {
      rank::EngineParts parts;
      parts.rank = r;
      parts.shard = plan.ranks[r];
      parts.tp = plan.tp;
      parts.pp = plan.pp;
      parts.limits = ranks_.limits();
      parts.device = ranks_.rank(r).device.get();
      parts.decoder = std::move(ranks_.rank(r).decoder);
      parts.kv = ranks_.rank(r).kv;
      parts.comm = &ranks_.group().rank(r);
      parts.plans = &queues_[r];
      parts.page = ranks_.rank(r).page.get();
      parts.checked_steps = checked_steps;
      parts.provoke_fault = &provoke_fault_[r];
      parts.operations = ranks_.rank(r).operations.get();
      parts.clock = &clock_;
      parts.on_result = [this, r, sampler = plan.sampling_rank()](plan::StepResult result) {
        MutexLock lock(mutex_);
        checksums_[r].push_back(result.checksum);
        if (!result.error.empty()) errors_.push_back(result);
        if (r == sampler) results_.push_back(std::move(result));
        changed_.NotifyAll();
        return refusal_;
      };
      absl::Status status = rank::RunEngine(std::move(parts));
      MutexLock lock(mutex_);
      broken_ |= !status.ok();
      ended_[r] = std::move(status);
      --running_;
      changed_.NotifyAll();
    });
  }
}

Engines::~Engines() {
  if (!threads_.empty()) Stop();
}

void Engines::RefuseAnswers(const absl::Status& refusal) {
  MutexLock lock(mutex_);
  refusal_ = refusal;
}

void Engines::Submit(const plan::StepPlan& plan) {
  for (PlanQueue& queue : queues_) queue.Push(plan);
}

void Engines::SubmitTo(int rank, const plan::StepPlan& plan) { queues_[rank].Push(plan); }

absl::StatusOr<plan::StepResult> Engines::NextResult() {
  const TimeNs deadline = clock_.Now() + 60 * kSecond;
  MutexLock lock(mutex_);
  while (results_.empty() && !broken_ && clock_.Now() < deadline) {
    changed_.WaitFor(mutex_, std::chrono::seconds(1));
  }
  // One rank has ended; another may be about to answer, or wait for that one for ever.
  const TimeNs last = clock_.Now() + 2 * kSecond;
  while (results_.empty() && broken_ && running_ > 0 && clock_.Now() < last) {
    changed_.WaitFor(mutex_, std::chrono::milliseconds(100));
  }
  if (!results_.empty()) {
    plan::StepResult result = std::move(results_.front());
    results_.pop_front();
    return result;
  }
  if (!broken_) return absl::DeadlineExceededError("no result within a minute");
  std::string why;
  for (const absl::Status& s : ended_) absl::StrAppend(&why, s.ToString(), "; ");
  return absl::UnavailableError(why);
}

std::vector<absl::Status> Engines::Stop() {
  {
    MutexLock lock(mutex_);
    if (broken_) {  // the others may wait for it for ever
      for (int r = 0; r < ranks_.size(); ++r) ranks_.group().abort(r) = 1;
    }
  }
  for (PlanQueue& queue : queues_) queue.Close();
  {
    const TimeNs deadline = clock_.Now() + 60 * kSecond;
    MutexLock lock(mutex_);
    while (running_ > 0 && clock_.Now() < deadline) changed_.WaitFor(mutex_, std::chrono::seconds(1));
    if (running_ > 0) {
      for (int r = 0; r < ranks_.size(); ++r) ranks_.group().abort(r) = 1;
    }
  }
  for (std::thread& t : threads_) t.join();
  threads_.clear();
  MutexLock lock(mutex_);
  return ended_;
}

std::vector<std::vector<uint64_t>> Engines::checksums() {
  MutexLock lock(mutex_);
  return checksums_;
}

std::vector<plan::StepResult> Engines::errors() {
  MutexLock lock(mutex_);
  return errors_;
}

}  // namespace shoal::testing
