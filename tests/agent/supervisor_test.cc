#include "worker/agent/supervisor.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "tests/agent/fixture.h"
#include "tests/testing/temp_dir.h"
#include "worker/device/memory.h"

namespace shoal::agent {
namespace {

using testing::Children;

// A shell script stands in for the rank: it sees the same arguments, descriptors and signals.
class SupervisorTest : public ::testing::Test {
 protected:
  SupervisorTest() {
    for (auto& m : memory_) m = *device::SharedMemory::Create("test", 4096);
  }

  SpawnSpec Script(const std::string& body) {
    spec_.binary = dir_ / absl::StrCat("script-", scripts_++);
    testing::WriteFile(spec_.binary, absl::StrCat("#!/bin/sh\n", body, "\n"));
    EXPECT_EQ(0, ::chmod(spec_.binary.c_str(), 0755));
    spec_.reader = 4;
    for (size_t i = 0; i < spec_.fds.size(); ++i) spec_.fds[i] = memory_[i].fd();
    return spec_;
  }

  std::unique_ptr<RankProcess> Start(const SpawnSpec& spec) {
    auto process = RankProcess::Start(spec, [this](pid_t pid, const std::string& cause, bool gone) {
      MutexLock lock(mutex_);
      pids_.push_back(pid);
      causes_.push_back(absl::StrCat(cause, gone ? "" : " (alive)"));
      changed_.NotifyAll();
    });
    EXPECT_TRUE(process.ok()) << process.status();
    return process.ok() ? *std::move(process) : nullptr;
  }
  // The n-th cause that was reported.
  std::string Cause(size_t n) {
    MutexLock lock(mutex_);
    while (causes_.size() <= n) {
      if (!changed_.WaitFor(mutex_, testing::kPatience)) return "none came";
    }
    return causes_[n];
  }
  size_t causes() {
    MutexLock lock(mutex_);
    return causes_.size();
  }

  testing::TempDir dir_;
  int scripts_ = 0;
  SpawnSpec spec_;
  std::array<device::SharedMemory, 6> memory_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<std::string> causes_ SHOAL_GUARDED_BY(mutex_);
  std::vector<pid_t> pids_ SHOAL_GUARDED_BY(mutex_);
};

TEST_F(SupervisorTest, ExitCodeAndLastLineAreReported) {
  const auto process = Start(Script("echo first >&2; echo last >&2; echo >&2; exit 7"));
  EXPECT_EQ("exited with 7: last", Cause(0));
  EXPECT_TRUE(process->gone());
  EXPECT_TRUE(process->WaitGone(60 * kSecond));
  MutexLock lock(mutex_);
  EXPECT_EQ(std::vector<pid_t>{process->pid()}, pids_);
  EXPECT_TRUE(Children().empty());
}

TEST_F(SupervisorTest, KillAndStopAreReportedAtOnce) {
  const auto process = Start(Script("while :; do :; done"));
  ASSERT_EQ(0, ::kill(process->pid(), SIGSTOP));
  EXPECT_EQ("stopped by signal 19 (alive)", Cause(0));
  EXPECT_FALSE(process->gone());
  EXPECT_FALSE(process->WaitGone(0));
  process->Kill();
  EXPECT_EQ("killed by signal 9", Cause(1));
  EXPECT_TRUE(process->WaitGone(60 * kSecond));
}

TEST_F(SupervisorTest, AKillByTheKernelForWantOfMemoryIsNamed) {
  std::atomic<uint64_t> kills{4};
  SpawnSpec spec = Script("echo busy >&2; while :; do :; done");
  spec.oom_kills = [&kills] { return kills.load(); };
  const auto killed = Start(spec);
  killed->Kill();
  EXPECT_EQ(0u, Cause(0).find("killed by signal 9")) << Cause(0);
  EXPECT_EQ(std::string::npos, Cause(0).find("memory")) << "of one before its start";
  const auto starved = Start(spec);
  kills = 5;
  starved->Kill();
  EXPECT_EQ("killed by signal 9: out of memory", Cause(1));
  const auto failed = Start(Script("exit 1"));
  EXPECT_EQ("exited with 1", Cause(2)) << "it ended by itself";
  spec.oom_kills = [] { return std::nullopt; };
  const auto unknown = Start(spec);
  unknown->Kill();
  EXPECT_EQ(std::string::npos, Cause(3).find("memory")) << "nobody counts";
}

TEST_F(SupervisorTest, DestructorKillsAndReaps) {
  Start(Script("trap '' TERM INT; while :; do :; done")).reset();
  EXPECT_TRUE(Children().empty());
  EXPECT_EQ(1u, causes());
}

TEST_F(SupervisorTest, RankSeesItsDescriptorsAndNoOthers) {
  const int stray = ::dup(0);  // inheritable
  const auto process = Start(Script("ls /proc/$$/fd | tr '\\n' ' ' >&2; echo >&2; echo $* >&2; exit 1"));
  // 10 and up are closed; the shell itself keeps its script open at one number.
  EXPECT_EQ("exited with 1: rank --reader 4", Cause(0));
  ::close(stray);
  process->WaitGone(60 * kSecond);
  SpawnSpec listing = Script(
      "for fd in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/self/fd/$fd ] || exit 1; done; "
      "for fd in 11 12 13 64 65 66 67 68; do [ -e /proc/$$/fd/$fd ] && exit 2; done; exit 0");
  const auto second = Start(listing);
  EXPECT_EQ("exited with 0", Cause(1));
}

TEST_F(SupervisorTest, OwnProcessGroupAndDefaultSignals) {
  // A terminal's Ctrl-C must not reach it; ignored signals of the agent must not be inherited.
  struct sigaction ignore = {}, before = {};
  ignore.sa_handler = SIG_IGN;
  ASSERT_EQ(0, ::sigaction(SIGUSR1, &ignore, &before));
  const auto process = Start(Script("kill -USR1 $$; exit 0"));
  EXPECT_EQ(absl::StrCat("killed by signal ", SIGUSR1), Cause(0));
  ASSERT_EQ(0, ::sigaction(SIGUSR1, &before, nullptr));
  const auto second = Start(Script("[ \"$(cut -d' ' -f5 /proc/$$/stat)\" = $$ ] && exit 3"));
  EXPECT_EQ("exited with 3", Cause(1));
}

TEST_F(SupervisorTest, StderrGoesToTheLog) {
  SpawnSpec spec = Script("echo one >&2; echo two; exit 0");
  spec.log_path = dir_ / "rank.log";
  const auto process = Start(spec);
  EXPECT_EQ("exited with 0: two", Cause(0));
  EXPECT_EQ("one\ntwo\n", testing::ReadFile(spec.log_path));
}

TEST_F(SupervisorTest, ItsEnvironmentIsOursButForWhatItIsGiven) {
  ASSERT_EQ(0, ::setenv("SHOAL_TEST_NAME", "ours", 1));
  ASSERT_EQ(0, ::setenv("SHOAL_TEST_NAME_TOO", "kept", 1));
  SpawnSpec spec = Script("echo $SHOAL_TEST_NAME $SHOAL_TEST_NAME_TOO $(env | grep -c SHOAL_TEST_NAME=); exit 0");
  spec.environment = {"SHOAL_TEST_NAME=given"};
  const auto process = Start(spec);
  EXPECT_EQ("exited with 0: given kept 1", Cause(0));
}

TEST_F(SupervisorTest, MissingBinaryIsAStatus) {
  SpawnSpec spec = Script("exit 0");
  spec.binary = "/no/such/binary";
  const auto process = RankProcess::Start(spec, [](pid_t, const std::string&, bool) {});
  EXPECT_EQ(absl::StatusCode::kNotFound, process.status().code()) << process.status();
  EXPECT_TRUE(Children().empty());
}

}  // namespace
}  // namespace shoal::agent
