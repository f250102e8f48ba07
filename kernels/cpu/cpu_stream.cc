#include "kernels/cpu/cpu_stream.h"

#include <climits>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/futex.h"

namespace shoal::ops::cpu {
namespace {

// Long enough to bridge the serial ops between two parallel ones of a decode step; short against a scheduler's slice.
constexpr DurationNs kSpin = 20 * kMicrosecond;
constexpr int kPausesPerClockRead = 32;

// True as soon as `done()`; false when it did not come while spinning.
template <typename Done>
bool Spin(Done done) {
  if (done()) return true;
  const RealClock clock;
  const TimeNs end = clock.Now() + kSpin;
  do {
    for (int i = 0; i < kPausesPerClockRead; ++i) {
      CpuRelax();
      if (done()) return true;
    }
  } while (clock.Now() < end);
  return false;
}

}  // namespace

CpuStream::CpuStream(int threads) {
  SHOAL_CHECK(threads >= 1);
  workers_.reserve(static_cast<size_t>(threads - 1));
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { Work(); });
}

CpuStream::~CpuStream() {
  stop_.store(true);
  WakeWorkers(INT_MAX);
  for (std::thread& t : workers_) t.join();
}

void CpuStream::ParallelFor(int tasks, Task fn, void* context) {
  if (workers_.empty() || tasks <= 1) {
    for (int i = 0; i < tasks; ++i) {
      fn(context, i);
      Advance();
    }
    return;
  }
  fn_ = fn;
  context_ = context;
  tasks_ = tasks;
  pending_.store(static_cast<uint32_t>(tasks), std::memory_order_relaxed);
  unclaimed_.store(tasks);  // publishes all of the above; sequentially consistent against sleepers_ in Work()
  if (sleepers_.load() > 0) WakeWorkers(tasks - 1);
  while (RunOne()) {
  }
  AwaitPending();
}

bool CpuStream::RunOne() {
  int32_t left = unclaimed_.load(std::memory_order_relaxed);
  do {
    if (left <= 0) return false;
  } while (!unclaimed_.compare_exchange_weak(left, left - 1, std::memory_order_acquire, std::memory_order_relaxed));
  fn_(context_, tasks_ - left);
  Advance();
  // Sequentially consistent against owner_sleeps_ in AwaitPending(): either it sees zero or this sees it asleep.
  if (pending_.fetch_sub(1) == 1 && owner_sleeps_.load()) FutexWake(&pending_, 1, FutexScope::kPrivate);
  return true;
}

void CpuStream::AwaitPending() {
  if (Spin([this] { return pending_.load(std::memory_order_acquire) == 0; })) return;
  owner_sleeps_.store(true);
  for (uint32_t left = pending_.load(); left != 0; left = pending_.load()) {
    FutexWait(&pending_, left, -1, FutexScope::kPrivate);
  }
  owner_sleeps_.store(false, std::memory_order_relaxed);
}

void CpuStream::WakeWorkers(int count) {
  wake_.fetch_add(1);
  FutexWake(&wake_, count, FutexScope::kPrivate);
}

void CpuStream::Work() {
  const auto called = [this] {
    return unclaimed_.load(std::memory_order_relaxed) > 0 || stop_.load(std::memory_order_relaxed);
  };
  while (!stop_.load(std::memory_order_relaxed)) {
    if (RunOne() || Spin(called)) continue;
    const uint32_t seen = wake_.load();
    sleepers_.fetch_add(1);
    if (unclaimed_.load() <= 0 && !stop_.load()) FutexWait(&wake_, seen, -1, FutexScope::kPrivate);
    sleepers_.fetch_sub(1);
  }
}

}  // namespace shoal::ops::cpu
