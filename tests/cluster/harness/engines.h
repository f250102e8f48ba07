// Rank engines on threads, fed by hand: what an agent and a coordinator do for real ones.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "common/base/mutex.h"
#include "tests/cluster/harness/rank_set.h"
#include "worker/rank/engine.h"

namespace shoal::testing {

// Plans for one rank. Thread-safe.
class PlanQueue final : public rank::PlanSource {
 public:
  void Push(const plan::StepPlan& plan);
  void Close();  // after what is queued
  absl::Status Next(plan::StepPlan* plan, TimeNs* arrived) override;
  bool HasNext() const override;

 private:
  mutable Mutex mutex_;
  mutable CondVar changed_;
  std::deque<std::pair<plan::StepPlan, TimeNs>> plans_ SHOAL_GUARDED_BY(mutex_);
  bool closed_ SHOAL_GUARDED_BY(mutex_) = false;
  const RealClock clock_;
};

// One RunEngine thread per rank of the set. Thread-safe.
class Engines {
 public:
  // Takes the decoders out of `ranks`, which must outlive this. `checked_steps`: EngineParts'.
  explicit Engines(RankSet& ranks, int checked_steps = 0);
  ~Engines();

  void Submit(const plan::StepPlan& plan);
  // Its device fails in its next step.
  void ProvokeFault(int rank) { provoke_fault_[rank].store(true); }
  void SubmitTo(int rank, const plan::StepPlan& plan);
  // From now on nobody takes the answers: this is what the engines are told.
  void RefuseAnswers(const absl::Status& refusal);
  // The next answer of the sampling rank. Unavailable when an engine has ended first; DeadlineExceeded after a minute.
  absl::StatusOr<plan::StepResult> NextResult();
  // Lets all engines end after the plans they have, and says how each of them ended.
  std::vector<absl::Status> Stop();
  // Of each rank, by plan; after Stop().
  std::vector<std::vector<uint64_t>> checksums();
  // Answers of all ranks that carry an error, after Stop().
  std::vector<plan::StepResult> errors();

 private:
  RankSet& ranks_;
  const RealClock clock_;
  std::deque<PlanQueue> queues_;
  std::deque<std::atomic<bool>> provoke_fault_;
  std::vector<std::thread> threads_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<plan::StepResult> results_ SHOAL_GUARDED_BY(mutex_);
  std::vector<plan::StepResult> errors_ SHOAL_GUARDED_BY(mutex_);
  std::vector<absl::Status> ended_ SHOAL_GUARDED_BY(mutex_);
  std::vector<std::vector<uint64_t>> checksums_ SHOAL_GUARDED_BY(mutex_);
  absl::Status refusal_ SHOAL_GUARDED_BY(mutex_);
  int running_ SHOAL_GUARDED_BY(mutex_) = 0;
  bool broken_ SHOAL_GUARDED_BY(mutex_) = false;
};

}  // namespace shoal::testing
