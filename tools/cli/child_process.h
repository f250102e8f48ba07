// A child of the launcher: started with posix_spawn, in a process group of its own (so that Ctrl-C reaches only the
// launcher, which ends its children in order), watched through a pidfd. One owner.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"

namespace shoal::cli {

class ChildProcess {
 public:
  // fds: pairs of (descriptor here, number in the child). All others are close-on-exec. SIGINT and SIGTERM are blocked
  // in the child until it has said what they shall do (InstallStopFlag).
  static absl::StatusOr<ChildProcess> Start(const std::vector<std::string>& argv,
                                            const std::vector<std::pair<int, int>>& fds);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  ~ChildProcess();  // kills and reaps it when it still runs

  int pid() const { return pid_; }
  int pidfd() const { return pidfd_; }  // readable once it has ended
  void Signal(int signal) const;
  bool Stopped() const;  // by a signal; not by a debugger

  // Waits for its end: 128 + signal, or its exit code. Empty when `timeout` passes first (< 0: none).
  std::optional<int> Wait(DurationNs timeout);

 private:
  ChildProcess(int pid, int pidfd) : pid_(pid), pidfd_(pidfd) {}
  int pid_;
  int pidfd_;
  std::optional<int> exit_code_;
};

}  // namespace shoal::cli
