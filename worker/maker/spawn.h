// Starts processes of this program without fork, which other threads do not survive.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal::maker {

struct SpawnCall {
  std::vector<std::string> argv;              // the first is the file
  std::vector<int> fds;                       // are numbered from 3 there; all others are closed
  int output_fd = -1;                         // its stdout and stderr
  std::vector<std::string> environment = {};  // "NAME=value": before ours of that name
};

// In a process group of its own: a Ctrl-C in the terminal reaches the caller alone, which ends it in order. Signals are
// at their defaults, stdin is empty. The caller reaps it.
absl::StatusOr<pid_t> Spawn(const SpawnCall& call);

// A descriptor of the process, readable once it has ended; -1 and errno.
int OpenPidFd(pid_t pid);

// "exited with 1", "killed by signal 9": of what waitid() has told.
std::string DescribeEnd(const siginfo_t& info);

}  // namespace shoal::maker
