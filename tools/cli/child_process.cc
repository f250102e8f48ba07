#include "tools/cli/child_process.h"

#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"

extern char** environ;

namespace shoal::cli {

absl::StatusOr<ChildProcess> ChildProcess::Start(const std::vector<std::string>& argv,
                                                 const std::vector<std::pair<int, int>>& fds) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  int highest = 2;
  for (const auto& [here, there] : fds) {
    posix_spawn_file_actions_adddup2(&actions, here, there);
    highest = std::max(highest, there);
  }
  // What our own parent left open stays here. (Closing one that is not open is no error to glibc.)
  for (int fd = 3; fd < highest; ++fd) {
    const bool wanted = std::any_of(fds.begin(), fds.end(), [fd](const auto& pair) { return pair.second == fd; });
    if (!wanted) posix_spawn_file_actions_addclose(&actions, fd);
  }
  posix_spawn_file_actions_addclosefrom_np(&actions, highest + 1);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  posix_spawnattr_setpgroup(&attributes, 0);
  sigset_t blocked, defaults;
  sigemptyset(&blocked);
  for (int s : {SIGINT, SIGTERM}) sigaddset(&blocked, s);
  sigemptyset(&defaults);
  for (int s : {SIGINT, SIGTERM, SIGCHLD, SIGPIPE, SIGXFSZ}) sigaddset(&defaults, s);
  posix_spawnattr_setsigmask(&attributes, &blocked);
  posix_spawnattr_setsigdefault(&attributes, &defaults);

  std::vector<char*> words;
  for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  pid_t pid = -1;
  const int error = posix_spawn(&pid, words[0], &actions, &attributes, words.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) return absl::InternalError(absl::StrCat("cannot start ", argv[0], ": ", std::strerror(error)));
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (pidfd < 0) {
    const int open_error = errno;
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return absl::InternalError(absl::StrCat("pidfd_open: ", std::strerror(open_error)));
  }
  return ChildProcess(pid, pidfd);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), pidfd_(std::exchange(other.pidfd_, -1)), exit_code_(other.exit_code_) {}

ChildProcess::~ChildProcess() {
  if (pid_ < 0) return;
  if (!exit_code_.has_value()) {
    Signal(SIGKILL);
    Wait(-1);
  }
  close(pidfd_);
}

void ChildProcess::Signal(int signal) const {
  if (!exit_code_.has_value()) syscall(SYS_pidfd_send_signal, pidfd_, signal, nullptr, 0);
}

bool ChildProcess::Stopped() const {
  if (exit_code_.has_value()) return false;
  // Not waitid: it tells changes, once each, and we want to know how it is now. The pid is ours until it is reaped.
  std::ifstream file(absl::StrCat("/proc/", pid_, "/stat"));
  std::string text;
  std::getline(file, text);
  const size_t name_end = text.rfind(')');  // the name may hold anything
  return name_end != std::string::npos && text.compare(name_end, 3, ") T") == 0;
}

std::optional<int> ChildProcess::Wait(DurationNs timeout) {
  if (exit_code_.has_value()) return exit_code_;
  const RealClock clock;
  const TimeNs deadline = clock.Now() + timeout;
  pollfd poll_fd{pidfd_, POLLIN, 0};
  for (;;) {
    const DurationNs left = timeout < 0 ? -1 : deadline - clock.Now();
    if (timeout >= 0 && left <= 0 && timeout > 0) return std::nullopt;
    const int n = poll(&poll_fd, 1, timeout < 0 ? -1 : static_cast<int>((left + kMillisecond - 1) / kMillisecond));
    if (n > 0) break;
    if (n == 0) return std::nullopt;
    if (errno != EINTR) return std::nullopt;
  }
  int status = 0;
  if (waitpid(pid_, &status, 0) != pid_) return std::nullopt;
  exit_code_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return exit_code_;
}

}  // namespace shoal::cli
