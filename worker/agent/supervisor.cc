#include "worker/agent/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/status_macros.h"
#include "worker/maker/spawn.h"
#include "worker/rank/process.h"

namespace shoal::agent {
namespace {

constexpr size_t kMaxLine = 2000;  // of stderr that is kept for a cause
// After a child has died, its stderr ends at once, unless somebody else holds the pipe.
constexpr DurationNs kStderrGrace = 200 * kMillisecond;
constexpr int kFirstFreeFd = 64;  // above the numbers that a rank is given

absl::StatusOr<pid_t> Spawn(const SpawnSpec& spec, int stderr_fd) {
  const int self = maker::OpenPidFd(::getpid());
  if (self < 0) return absl::ErrnoToStatus(errno, "pidfd_open");
  maker::SpawnCall call;
  call.argv = {spec.binary, "rank", "--reader", absl::StrCat(spec.reader)};
  static_assert(rank::kControlFd == 3);  // where Spawn begins
  call.fds.assign(spec.fds.begin(), spec.fds.end());
  call.fds.push_back(self);
  call.output_fd = stderr_fd;
  call.environment = spec.environment;
  absl::StatusOr<pid_t> pid = maker::Spawn(call);
  ::close(self);
  return pid;
}

void WriteAll(int fd, const char* data, size_t size) {
  while (size > 0) {
    const ssize_t n = ::write(fd, data, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // a full disk must not end the agent
    data += n;
    size -= static_cast<size_t>(n);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<RankProcess>> RankProcess::Start(const SpawnSpec& spec, OnExit on_exit) {
  int pipe[2];
  if (::pipe2(pipe, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe2");
  int sink = -1;
  if (spec.log_path.empty()) {
    sink = ::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, kFirstFreeFd);
  } else {
    sink = ::open(spec.log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  }
  OomWatch oom = {spec.oom_kills, spec.oom_kills()};
  absl::StatusOr<pid_t> pid = Spawn(spec, pipe[1]);
  ::close(pipe[1]);
  if (!pid.ok()) {
    ::close(pipe[0]);
    if (sink >= 0) ::close(sink);
    return pid.status();
  }
  // The child cannot have been reaped yet, so its number is still its own.
  const int pid_fd = maker::OpenPidFd(*pid);
  if (pid_fd < 0) {
    const absl::Status failed = absl::ErrnoToStatus(errno, "pidfd_open");
    ::kill(*pid, SIGKILL);
    ::waitpid(*pid, nullptr, 0);
    ::close(pipe[0]);
    if (sink >= 0) ::close(sink);
    return failed;
  }
  return std::unique_ptr<RankProcess>(new RankProcess(*pid, pid_fd, pipe[0], sink, std::move(oom), std::move(on_exit)));
}

RankProcess::RankProcess(pid_t pid, int pid_fd, int stderr_fd, int sink_fd, OomWatch oom, OnExit on_exit)
    : pid_(pid),
      pid_fd_(pid_fd),
      stderr_fd_(stderr_fd),
      sink_fd_(sink_fd),
      oom_(std::move(oom)),
      on_exit_(std::move(on_exit)) {
  relay_ = std::thread([this] { RelayStderr(); });
  watch_ = std::thread([this] { Watch(); });
}

RankProcess::~RankProcess() {
  Kill();
  watch_.join();
  relay_.join();
  ::close(pid_fd_);
  ::close(stderr_fd_);
  if (sink_fd_ >= 0) ::close(sink_fd_);
}

void RankProcess::Kill() const { ::syscall(SYS_pidfd_send_signal, pid_fd_, SIGKILL, nullptr, 0); }

bool RankProcess::OutOfMemory() const {
  if (!oom_.at_start.has_value()) return false;
  const std::optional<uint64_t> now = oom_.kills();
  return now.has_value() && *now > *oom_.at_start;
}

bool RankProcess::WaitGone(DurationNs timeout) {
  const RealClock clock;
  const TimeNs deadline = clock.Now() + timeout;
  MutexLock lock(mutex_);
  while (!reaped_) {
    const DurationNs left = deadline - clock.Now();
    if (left <= 0) return false;
    changed_.WaitFor(mutex_, std::chrono::nanoseconds(left));
  }
  return true;
}

void RankProcess::Watch() {
  while (true) {
    siginfo_t info = {};
    if (::waitid(P_PIDFD, static_cast<id_t>(pid_fd_), &info, WEXITED | WSTOPPED) != 0) {
      if (errno == EINTR) continue;
      info.si_code = CLD_EXITED;  // reaped by somebody else (SIGCHLD ignored): it is gone, how is not known
      info.si_status = -1;
    }
    const bool gone = info.si_code != CLD_STOPPED && info.si_code != CLD_TRAPPED;
    std::string cause = maker::DescribeEnd(info);
    if (gone) {
      gone_.store(true, std::memory_order_release);
      const bool oom = info.si_code == CLD_KILLED && info.si_status == SIGKILL && OutOfMemory();
      const std::string last = oom ? "out of memory" : LastLine();
      if (!last.empty()) cause = absl::StrCat(cause, ": ", last);
    }
    on_exit_(pid_, cause, gone);
    if (!gone) continue;
    MutexLock lock(mutex_);
    reaped_ = true;
    changed_.NotifyAll();
    return;
  }
}

std::string RankProcess::LastLine() {
  MutexLock lock(mutex_);
  const RealClock clock;
  const TimeNs deadline = clock.Now() + kStderrGrace;
  while (!stderr_ended_ && clock.Now() < deadline) changed_.WaitFor(mutex_, std::chrono::milliseconds(10));
  return line_.empty() ? last_line_ : line_;
}

// Ends with the pipe; or, when another process holds its other end, shortly after the rank has been reaped.
void RankProcess::RelayStderr() {
  char buffer[4096];
  while (true) {
    pollfd fd = {stderr_fd_, POLLIN, 0};
    const int ready = ::poll(&fd, 1, 1000);
    if (ready == 0 && gone()) break;
    if (ready <= 0) continue;
    const ssize_t n = ::read(stderr_fd_, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    if (sink_fd_ >= 0) WriteAll(sink_fd_, buffer, static_cast<size_t>(n));
    MutexLock lock(mutex_);
    for (const char* c = buffer; c < buffer + n; ++c) {
      if (*c != '\n') {
        if (line_.size() < kMaxLine) line_.push_back(*c);
      } else if (!line_.empty()) {
        last_line_ = std::exchange(line_, {});
      }
    }
  }
  MutexLock lock(mutex_);
  stderr_ended_ = true;
  changed_.NotifyAll();
}

}  // namespace shoal::agent
