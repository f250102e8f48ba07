#include "worker/agent/oom.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/testing/temp_dir.h"

namespace shoal::agent {
namespace {

TEST(Oom, KillsAreReadFromEitherFile) {
  EXPECT_EQ(3u, ParseOomKills("low 0\nhigh 0\nmax 12\noom 4\noom_kill 3\noom_group_kill 9\n"));
  EXPECT_EQ(0u, ParseOomKills("pgfault 77\noom_kill 0\nnuma_hit 5"));
  for (const char* text : {"", "oom 4\n", "oom_kill\n", "oom_kill x\n", "oom_kill -1\n", "an oom_kill 3\n",
                           "oom_kill 99999999999999999999999\n"}) {
    EXPECT_EQ(std::nullopt, ParseOomKills(text)) << text;
  }
}

TEST(Oom, TheGroupIsTheOneOfVersionTwo) {
  EXPECT_EQ("/sys/fs/cgroup/memory.events", OomEventsPath("0::/\n"));
  EXPECT_EQ("/sys/fs/cgroup/a.slice/pod/memory.events", OomEventsPath("4:memory:/other\n0::/a.slice/pod\n"));
  for (const char* text : {"", "4:memory:/other\n", "0::/../elsewhere\n", "0::"}) {
    EXPECT_EQ("", OomEventsPath(text)) << text;
  }
}

TEST(Oom, WithoutACountOfTheGroupTheMachinesCounts) {
  const testing::TempDir dir;
  EXPECT_EQ(std::nullopt, OomKills(dir.path()));
  std::filesystem::create_directories(dir / "proc/self");
  std::filesystem::create_directories(dir / "sys/fs/cgroup/pod");
  // As long as the real one: the line is behind the first page.
  testing::WriteFile(dir / "proc/vmstat", std::string(9000, 'x') + "\noom_kill 5\n");
  EXPECT_EQ(5u, OomKills(dir.path()));
  testing::WriteFile(dir / "proc/self/cgroup", "0::/pod\n");
  EXPECT_EQ(5u, OomKills(dir.path()));
  testing::WriteFile(dir / "sys/fs/cgroup/pod/memory.events", "oom 1\noom_kill 2\n");
  EXPECT_EQ(2u, OomKills(dir.path()));
}

TEST(Oom, ThisMachineHasACount) { EXPECT_TRUE(OomKills().has_value()); }

}  // namespace
}  // namespace shoal::agent
