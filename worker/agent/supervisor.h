// One rank process: started, watched through its pidfd, and reaped. A child is found dead or stopped at once, and never
// left behind: the destructor kills and reaps.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "worker/agent/oom.h"

namespace shoal::agent {

struct SpawnSpec {
  std::string binary;  // runs `binary rank --reader N`
  int reader = 0;
  // Descriptors for worker/rank/process.h's numbers, from kControlFd on; the last, the agent's pidfd, is filled in
  // here.
  std::array<int, 6> fds{};
  std::vector<std::string> environment = {};  // as SpawnCall's
  std::string log_path;                       // its stderr is appended there; empty: to ours
  // How often the out-of-memory killer has struck here; tests have their own.
  std::function<std::optional<uint64_t>()> oom_kills = [] { return OomKills(); };
};

class RankProcess {
 public:
  // `pid`: its own, since Start() may not have returned yet. `cause` as in plan::RankExit. `gone`: it has been reaped;
  // else it was stopped by a signal and may still go on.
  using OnExit = std::function<void(pid_t pid, const std::string& cause, bool gone)>;

  // Must be called from a thread that outlives the process: the kernel sends a rank its parent-death signal when the
  // thread that started it ends. `on_exit` is called from a thread of its own.
  static absl::StatusOr<std::unique_ptr<RankProcess>> Start(const SpawnSpec& spec, OnExit on_exit);
  ~RankProcess();

  pid_t pid() const { return pid_; }
  // Reaped already.
  bool gone() const { return gone_.load(std::memory_order_acquire); }
  void Kill() const;
  // False when it still runs after `timeout`.
  bool WaitGone(DurationNs timeout) SHOAL_EXCLUDES(mutex_);

 private:
  struct OomWatch {
    std::function<std::optional<uint64_t>()> kills;
    std::optional<uint64_t> at_start;
  };
  RankProcess(pid_t pid, int pid_fd, int stderr_fd, int sink_fd, OomWatch oom, OnExit on_exit);
  void Watch();
  // Of a process that SIGKILL has ended: whether the out-of-memory killer has struck since its start. It counts before
  // it kills.
  bool OutOfMemory() const;
  void RelayStderr();
  std::string LastLine() SHOAL_EXCLUDES(mutex_);

  const pid_t pid_;
  const int pid_fd_;
  const int stderr_fd_;  // our end of its stderr
  const int sink_fd_;    // where it is copied to
  const OomWatch oom_;
  const OnExit on_exit_;
  std::atomic<bool> gone_{false};

  Mutex mutex_;
  CondVar changed_;
  bool reaped_ SHOAL_GUARDED_BY(mutex_) = false;
  bool stderr_ended_ SHOAL_GUARDED_BY(mutex_) = false;
  std::string line_ SHOAL_GUARDED_BY(mutex_);       // being received
  std::string last_line_ SHOAL_GUARDED_BY(mutex_);  // the last whole, non-empty one
  std::thread relay_, watch_;
};

}  // namespace shoal::agent
