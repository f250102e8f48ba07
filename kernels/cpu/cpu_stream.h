// A pool of threads for ParallelFor. Tasks are claimed one by one from a shared counter, so a thread that loses its
// core holds up one task, not a fixed share. Waiting threads spin for some microseconds, then sleep on a futex. One
// owner thread calls ParallelFor; it works along. Not re-entrant: a task must not call ParallelFor of its own stream.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "kernels/ops/stream.h"

namespace shoal::ops::cpu {

class CpuStream final : public Stream {
 public:
  explicit CpuStream(int threads);  // >= 1, the owner included
  ~CpuStream() override;
  CpuStream(const CpuStream&) = delete;
  CpuStream& operator=(const CpuStream&) = delete;

  int threads() const override { return static_cast<int>(workers_.size()) + 1; }
  void ParallelFor(int tasks, Task fn, void* context) override;

 private:
  bool RunOne();  // false: nothing was left to claim
  void Work();
  void WakeWorkers(int count);
  void AwaitPending();

  // The job. Written by the owner while nothing is claimed; read only by a thread that holds an unfinished task of it.
  Task fn_ = nullptr;
  void* context_ = nullptr;
  int tasks_ = 0;

  // Own synchronisation; each on its own cache line.
  alignas(64) std::atomic<int32_t> unclaimed_{0};
  alignas(64) std::atomic<uint32_t> pending_{0};  // claimed or not, but unfinished; the owner's futex
  std::atomic<bool> owner_sleeps_{false};
  alignas(64) std::atomic<uint32_t> wake_{0};  // the workers' futex
  std::atomic<int32_t> sleepers_{0};
  std::atomic<bool> stop_{false};

  std::vector<std::thread> workers_;
};

}  // namespace shoal::ops::cpu
