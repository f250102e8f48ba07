#include "coordinator/http/text_pool.h"

namespace shoal::http {

TextPool::TextPool(int threads, size_t queue_limit) : queue_limit_(queue_limit) {
  for (int i = 0; i < threads; ++i) {
    threads_.emplace_back([this] { Run(); });
  }
}

TextPool::~TextPool() {
  std::deque<std::function<void()>> dropped;  // destroyed outside of the lock
  {
    MutexLock lock(mutex_);
    stop_ = true;
    dropped.swap(jobs_);
  }
  work_.NotifyAll();
  for (std::thread& thread : threads_) thread.join();
}

bool TextPool::Submit(std::function<void()> job) {
  {
    MutexLock lock(mutex_);
    if (jobs_.size() >= queue_limit_) return false;
    jobs_.push_back(std::move(job));
  }
  work_.NotifyOne();
  return true;
}

void TextPool::Run() {
  for (;;) {
    std::function<void()> job;
    {
      MutexLock lock(mutex_);
      while (jobs_.empty() && !stop_) work_.Wait(mutex_);
      if (stop_) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job();
  }
}

}  // namespace shoal::http
