#include "tools/cli/signals.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace shoal::cli {
namespace {

// Each in a process of its own, since handlers stay.
int InChild(int (*body)()) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Signals, BothSetTheFlagAndAreCounted) {
  EXPECT_EQ(InChild([] {
              const std::atomic<bool>& stop = InstallStopFlag();
              if (stop.load()) return 1;
              raise(SIGPIPE);
              raise(SIGTERM);
              if (!stop.load() || StopSignals() != 1) return 2;
              raise(SIGINT);
              return StopSignals() == 2 ? 0 : 3;
            }),
            0);
}

TEST(Signals, OneThatCameTooEarlyIsNotLost) {
  EXPECT_EQ(InChild([] {
              sigset_t term;
              sigemptyset(&term);
              sigaddset(&term, SIGTERM);
              sigprocmask(SIG_BLOCK, &term, nullptr);
              raise(SIGTERM);
              return InstallStopFlag().load() && StopSignals() == 1 ? 0 : 1;
            }),
            0);
}

TEST(Signals, TheParentsDeathIsAskedFor) {
  EXPECT_EQ(InChild([] {
              if (!DieWithParent(getppid())) return 1;
              int sig = 0;
              prctl(PR_GET_PDEATHSIG, &sig);
              return sig == SIGTERM ? 0 : 2;
            }),
            0);
}

TEST(Signals, AParentThatIsGoneIsNoticed) {
  EXPECT_FALSE(DieWithParent(getpid()));  // whoever the parent is, it is not that one
}

}  // namespace
}  // namespace shoal::cli
