#include "tools/cli/child_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

namespace shoal::cli {
namespace {

TEST(ChildProcess, ReportsExitCodesAndSignals) {
  auto child = ChildProcess::Start({"/bin/sh", "-c", "exit 7"}, {});
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(child->Wait(-1), 7);
  auto killed = ChildProcess::Start({"/bin/sleep", "1000"}, {});
  ASSERT_TRUE(killed.ok());
  EXPECT_EQ(killed->Wait(kMillisecond), std::nullopt);
  killed->Signal(SIGKILL);
  EXPECT_EQ(killed->Wait(-1), 128 + SIGKILL);
}

TEST(ChildProcess, PassesDescriptorsAndNothingElse) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  auto child = ChildProcess::Start({"/bin/sh", "-c", "ls /proc/self/fd | tr '\\n' ' ' >&7"}, {{ends[1], 7}});
  ASSERT_TRUE(child.ok());
  close(ends[1]);
  char text[256] = {};
  ASSERT_GT(read(ends[0], text, sizeof text - 1), 0);
  close(ends[0]);
  EXPECT_EQ(child->Wait(-1), 0);
  // 0, 1 (the pipe to tr), 2, 3 (the directory), 7.
  EXPECT_STREQ(text, "0 1 2 3 7 ");
}

// Who is told to end before it has a handler must not die of it: that would look like a crash.
TEST(ChildProcess, StartsWithTheSignalsToEndBlocked) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  auto child = ChildProcess::Start({"/bin/grep", "SigBlk", "/proc/self/status"}, {{ends[1], 1}});  // a shell unblocks
  ASSERT_TRUE(child.ok());
  close(ends[1]);
  char text[256] = {};
  ASSERT_GT(read(ends[0], text, sizeof text - 1), 0);
  close(ends[0]);
  EXPECT_EQ(child->Wait(-1), 0);
  EXPECT_STREQ(text, "SigBlk:\t0000000000004002\n");
}

TEST(ChildProcess, IsKilledWithItsOwner) {
  int pid = 0;
  {
    auto child = ChildProcess::Start({"/bin/sleep", "1000"}, {});
    ASSERT_TRUE(child.ok());
    pid = child->pid();
    EXPECT_EQ(getpgid(pid), pid);
  }
  EXPECT_EQ(kill(pid, 0), -1);
}

TEST(ChildProcess, AMissingProgramIsAnError) {
  EXPECT_EQ(ChildProcess::Start({"/does/not/exist"}, {}).status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace shoal::cli
