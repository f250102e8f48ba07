// A few threads for work on text that would hold up an I/O thread. Bounded: what does not fit is refused at once.
#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "common/base/mutex.h"

namespace shoal::http {

class TextPool {
 public:
  TextPool(int threads, size_t queue_limit);
  // Waits for the job that each thread is at; drops the others.
  ~TextPool();

  // False when the queue is full. Thread-safe.
  bool Submit(std::function<void()> job);

 private:
  void Run();

  const size_t queue_limit_;
  Mutex mutex_;
  CondVar work_;
  std::deque<std::function<void()>> jobs_ SHOAL_GUARDED_BY(mutex_);
  bool stop_ SHOAL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace shoal::http
