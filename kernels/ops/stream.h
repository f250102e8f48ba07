// Where an op runs. On the CPU: a pool of threads; on a device: its queue. Passed into every op; never global.
#pragma once

#include <atomic>
#include <cstdint>
#include <type_traits>

namespace shoal::ops {

// One owner thread issues ops; ops on one stream run in the order of issue.
class Stream {
 public:
  using Task = void (*)(void* context, int task);

  virtual ~Stream() = default;
  virtual int threads() const = 0;

  // Runs fn(context, i) for every i in [0, tasks), spread over the threads in any order, and returns when all are done.
  // An op may rely neither on the order nor on which thread runs a task: results must not depend on them.
  virtual void ParallelFor(int tasks, Task fn, void* context) = 0;

  // Counts finished tasks; lives in memory that the rank's parent watches. Stands still <=> the rank is stuck.
  std::atomic<uint64_t>* progress = nullptr;

  void Advance() {
    if (progress != nullptr) progress->fetch_add(1, std::memory_order_relaxed);
  }
};

// ParallelFor with a callable; no allocation.
template <typename F>
void ParallelFor(Stream& s, int tasks, F&& f) {
  using Fn = std::remove_reference_t<F>;
  void* context = const_cast<void*>(static_cast<const void*>(&f));
  s.ParallelFor(
      tasks, [](void* c, int i) { (*static_cast<Fn*>(c))(i); }, context);
}

}  // namespace shoal::ops
