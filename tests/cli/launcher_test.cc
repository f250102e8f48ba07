// The launcher over small shell scripts instead of a coordinator and an agent. They act on files and on what they are
// told, so that nothing here waits for a time.
#include "tools/cli/launcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "tests/testing/temp_dir.h"

namespace shoal::cli {
namespace {

constexpr int kFd = 7;

class LauncherTest : public ::testing::Test {
 protected:
  // A script may use $READY (where it says "ready"), $DIR, and `start`, which counts its starts in $N.
  StartFn Script(const std::string& name, const std::string& body) {
    const std::string text =
        "READY=/dev/fd/7; DIR=" + dir_.path() + "; NAME=" + name +
        "; echo x >> $DIR/$NAME.starts; N=$(wc -l < $DIR/$NAME.starts); echo $$ > $DIR/$NAME.pid; " + body;
    return [text](const StartContext& context) {
      return ChildProcess::Start({"/bin/sh", "-c", (context.after_crash ? "CRASHED=yes; " : "CRASHED=no; ") + text},
                                 {{context.ready_fd, kFd}});
    };
  }
  // Sleeps for ever, ends with 0 on SIGTERM.
  static constexpr char kStay[] = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

  int Starts(const std::string& name) const {
    std::string text = testing::ReadFile(dir_ / (name + ".starts"));
    return static_cast<int>(text.size() / 2);
  }
  int Run(const std::string& coordinator, const std::string& agent) {
    LauncherPlan plan;
    plan.start_coordinator = Script("coordinator", coordinator);
    if (!agent.empty()) plan.start_agent = Script("agent", agent);
    plan.on_line = [this](const std::string& line) { lines_.push_back(line); };
    ::testing::internal::CaptureStderr();
    const int code = Launcher(std::move(plan), &stop_).Run();
    said_ = ::testing::internal::GetCapturedStderr();
    return code;
  }
  bool Said(const std::string& words) const { return said_.find(words) != std::string::npos; }

  testing::TempDir dir_;
  std::atomic<bool> stop_{false};
  std::vector<std::string> lines_;
  std::string said_;
};

TEST_F(LauncherTest, TheEndOfTheCoordinatorBeforeItWasReadyIsTheEndOfAll) {
  EXPECT_EQ(Run("exit 3", kStay), 3);
  EXPECT_EQ(Starts("coordinator"), 1);
  EXPECT_EQ(access((dir_ / "agent.starts").c_str(), F_OK), -1) << "no agent was started";
}

TEST_F(LauncherTest, ASignalThatKillsItBeforeItWasReadyIsNamed) {
  EXPECT_EQ(Run("kill -KILL $$", kStay), 128 + SIGKILL);
  EXPECT_TRUE(Said("was killed by signal 9 (Killed) before it was ready for the first time")) << said_;
}

TEST_F(LauncherTest, SoIsThatOfTheAgent) {
  EXPECT_EQ(Run(std::string("echo listening > $READY; ") + kStay, "exit 4"), 1);
  EXPECT_EQ(Starts("agent"), 1);
  EXPECT_TRUE(Said("the local agent ended with 4; shutting down")) << said_;
  EXPECT_EQ(lines_, std::vector<std::string>{"listening"});
}

TEST_F(LauncherTest, AKilledCoordinatorIsStartedAgain) {
  // Its second life ends with 0, which ends all.
  EXPECT_EQ(Run("echo listening $N > $READY; echo ready > $READY; "
                "until [ -s $DIR/agent.pid ]; do sleep 0.02; done; [ $N = 2 ] && exit 0; kill -KILL $$",
                kStay),
            0);
  EXPECT_EQ(Starts("coordinator"), 2);
  EXPECT_EQ(Starts("agent"), 1) << "it goes on";
  EXPECT_EQ(lines_, (std::vector<std::string>{"listening 1", "listening 2"}));
  EXPECT_TRUE(Said("was killed by signal 9")) << said_;
  EXPECT_TRUE(Said("the coordinator is back, pid ")) << said_;
  EXPECT_TRUE(Said("serving again after ")) << said_;
}

TEST_F(LauncherTest, ItTellsWhetherTheLifeBeforeEndedFromInside) {
  EXPECT_EQ(Run("echo $CRASHED > $READY; echo ready > $READY; "
                "case $N in 1) kill -KILL $$;; 2) kill -ABRT $$;; 3) kill -SEGV $$;; 4) exit 3;; *) exit 0;; esac",
                ""),
            0);
  EXPECT_EQ(lines_, (std::vector<std::string>{"no", "no", "yes", "yes", "no"}));
}

TEST_F(LauncherTest, AnAgentThatFailsIsStartedAgain) {
  // The coordinator goes when the agent has been there for the second time.
  EXPECT_EQ(Run("echo listening > $READY; echo ready > $READY; touch $DIR/up; "
                "until [ -e $DIR/twice ]; do sleep 0.02; done; exit 0",
                "echo ready > $READY; [ $N = 2 ] && touch $DIR/twice; until [ -e $DIR/up ]; do sleep 0.02; done; "
                "[ $N = 1 ] && exit 9; trap 'exit 0' TERM; while :; do sleep 0.05; done"),
            0);
  EXPECT_EQ(Starts("agent"), 2);
  EXPECT_EQ(Starts("coordinator"), 1);
  EXPECT_TRUE(Said("exited with 9; it is started again in 0.1 s")) << said_;
}

TEST_F(LauncherTest, AnAgentThatWasToldToEndStaysDownAndTheCoordinatorGoesOn) {
  // The coordinator's first life ends once the agent has been reaped, the second at once: neither starts it again.
  EXPECT_EQ(Run("echo listening > $READY; echo ready > $READY; touch $DIR/up; "
                "case $N in 1) until [ -s $DIR/agent.pid ]; do sleep 0.02; done; "
                "while kill -0 $(cat $DIR/agent.pid); do sleep 0.02; done; kill -KILL $$;; "
                "2) kill -KILL $$;; *) exit 0;; esac",
                "echo ready > $READY; until [ -e $DIR/up ]; do sleep 0.02; done; exit 0"),
            0);
  EXPECT_EQ(Starts("coordinator"), 3);
  EXPECT_EQ(Starts("agent"), 1);
  EXPECT_TRUE(Said("ended as it was told to; it is not started again")) << said_;
}

TEST_F(LauncherTest, ItGivesUpAfterFiveEndsWithoutReady) {
  EXPECT_EQ(Run("echo listening > $READY; [ $N = 1 ] && echo ready > $READY; exit 5", kStay), 1);
  EXPECT_EQ(Starts("coordinator"), 6);  // the first was ready
  EXPECT_TRUE(Said("the coordinator has ended 5 times in a row before it was ready; the last time it exited with 5"))
      << said_;
}

TEST_F(LauncherTest, AStoppedCoordinatorIsKilledAndStartedAgain) {
  EXPECT_EQ(Run("echo listening > $READY; echo ready > $READY; [ $N = 2 ] && exit 0; kill -STOP $$; exit 8", kStay), 0);
  EXPECT_EQ(Starts("coordinator"), 2);
  EXPECT_TRUE(Said("had been stopped for 5 s and was killed")) << said_;
}

TEST_F(LauncherTest, AStopEndsBothInTheMiddleOfAnything) {
  // While the coordinator begins, ends, or waits to be started again.
  const auto count = [this] {
    return access((dir_ / "coordinator.starts").c_str(), F_OK) == 0 ? Starts("coordinator") : 0;
  };
  std::thread stopper([&] {
    while (count() < 2) usleep(1000);
    stop_ = true;
  });
  // What the coordinator made of it depends on where its second life was.
  EXPECT_THAT(Run("echo listening > $READY; echo ready > $READY; "
                  "until [ -s $DIR/agent.pid ]; do sleep 0.02; done; exit 5",
                  kStay),
              ::testing::AnyOf(0, 5, 128 + SIGTERM));
  stopper.join();
  const int agent = std::stoi(testing::ReadFile(dir_ / "agent.pid"));
  EXPECT_EQ(kill(agent, 0), -1) << "no process is left";
}

}  // namespace
}  // namespace shoal::cli
