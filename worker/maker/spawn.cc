// Tested by: tests/agent/supervisor_test.cc, tests/maker/client_test.cc
#include "worker/maker/spawn.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

extern char** environ;

namespace shoal::maker {
namespace {

constexpr int kFirstFd = 3;
constexpr int kFirstFreeFd = 64;  // sources are moved above the numbers they are put at

// Copies of descriptors, closed in the parent.
class Copies {
 public:
  Copies() = default;
  Copies(const Copies&) = delete;
  Copies& operator=(const Copies&) = delete;
  ~Copies() {
    for (int fd : fds_) ::close(fd);
  }
  // With a number above all those that a child is given.
  absl::StatusOr<int> Copy(int fd) {
    const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, kFirstFreeFd);
    if (copy < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot copy descriptor ", fd));
    fds_.push_back(copy);
    return copy;
  }

 private:
  std::vector<int> fds_;
};

// posix_spawn's two argument objects, with destructors.
struct Arguments {
  Arguments() {
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawnattr_init(&attributes);
  }
  ~Arguments() {
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
  }
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
};

void SetAttributes(posix_spawnattr_t* attributes) {
  sigset_t none, all;
  ::sigemptyset(&none);
  ::sigfillset(&all);
  ::posix_spawnattr_setsigmask(attributes, &none);
  ::posix_spawnattr_setsigdefault(attributes, &all);
  ::posix_spawnattr_setpgroup(attributes, 0);
  ::posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
}

absl::Status SetDescriptors(const SpawnCall& call, Copies& copies, posix_spawn_file_actions_t* actions) {
  SHOAL_ASSIGN_OR_RETURN(const int output, copies.Copy(call.output_fd));
  ::posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(actions, output, STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(actions, output, STDERR_FILENO);
  int target = kFirstFd;
  for (const int fd : call.fds) {
    SHOAL_ASSIGN_OR_RETURN(const int source, copies.Copy(fd));
    ::posix_spawn_file_actions_adddup2(actions, source, target++);
  }
  ::posix_spawn_file_actions_addclosefrom_np(actions, target);
  return absl::OkStatus();
}

// `ours` but for those that `theirs` name, and theirs.
std::vector<char*> Environment(char** ours, std::vector<std::string>& theirs) {
  std::vector<char*> all;
  for (std::string& one : theirs) all.push_back(one.data());
  for (; *ours != nullptr; ++ours) {
    const std::string_view entry = *ours;
    const std::string_view name = entry.substr(0, entry.find('=') + 1);
    const bool replaced = std::any_of(theirs.begin(), theirs.end(), [name](const std::string& one) {
      return one.compare(0, name.size(), name) == 0;
    });
    if (!replaced) all.push_back(*ours);
  }
  all.push_back(nullptr);
  return all;
}

}  // namespace

absl::StatusOr<pid_t> Spawn(const SpawnCall& call) {
  Copies copies;
  Arguments args;
  SetAttributes(&args.attributes);
  SHOAL_RETURN_IF_ERROR(SetDescriptors(call, copies, &args.actions));
  std::vector<std::string> words = call.argv;
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::vector<std::string> theirs = call.environment;
  std::vector<char*> environment = Environment(environ, theirs);
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, argv[0], &args.actions, &args.attributes, argv.data(), environment.data());
  if (error != 0) {
    return absl::ErrnoToStatus(
        error, absl::StrCat("cannot start ", words[0], words.size() > 1 ? " " : "", words.size() > 1 ? words[1] : ""));
  }
  return pid;
}

int OpenPidFd(pid_t pid) { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)); }

std::string DescribeEnd(const siginfo_t& info) {
  switch (info.si_code) {
    case CLD_EXITED:
      return absl::StrCat("exited with ", info.si_status);
    case CLD_KILLED:
      return absl::StrCat("killed by signal ", info.si_status);
    case CLD_DUMPED:
      return absl::StrCat("killed by signal ", info.si_status, " (core dumped)");
    default:
      return absl::StrCat("stopped by signal ", info.si_status);
  }
}

}  // namespace shoal::maker
