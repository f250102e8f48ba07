// std::mutex with clang's thread-safety annotations. Not absl::Mutex: ThreadSanitizer understands std::mutex, and
// Debian's abseil is built without it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define SHOAL_TSA(x) __attribute__((x))
#else
#define SHOAL_TSA(x)
#endif
#define SHOAL_GUARDED_BY(m) SHOAL_TSA(guarded_by(m))
#define SHOAL_REQUIRES(...) SHOAL_TSA(requires_capability(__VA_ARGS__))
#define SHOAL_EXCLUDES(...) SHOAL_TSA(locks_excluded(__VA_ARGS__))

namespace shoal {

class SHOAL_TSA(capability("mutex")) Mutex {
 public:
  void Lock() SHOAL_TSA(acquire_capability()) { m_.lock(); }
  void Unlock() SHOAL_TSA(release_capability()) { m_.unlock(); }

 private:
  friend class CondVar;
  std::mutex m_;
};

class SHOAL_TSA(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& m) SHOAL_TSA(acquire_capability(m)) : m_(m) { m_.Lock(); }
  ~MutexLock() SHOAL_TSA(release_capability()) { m_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& m_;
};

// Waits may wake without cause: always wait in a loop over the condition.
class CondVar {
 public:
  void Wait(Mutex& m) SHOAL_REQUIRES(m) {
    std::unique_lock<std::mutex> lock(m.m_, std::adopt_lock);
    cv_.wait(lock);
    lock.release();
  }
  // False when `timeout` passed first.
  bool WaitFor(Mutex& m, std::chrono::nanoseconds timeout) SHOAL_REQUIRES(m) {
    std::unique_lock<std::mutex> lock(m.m_, std::adopt_lock);
    const bool woken = cv_.wait_for(lock, timeout) == std::cv_status::no_timeout;
    lock.release();
    return woken;
  }
  void NotifyOne() { cv_.notify_one(); }
  void NotifyAll() { cv_.notify_all(); }

 private:
  std::condition_variable cv_;
};

}  // namespace shoal
