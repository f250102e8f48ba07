#include "worker/agent/stuck_judge.h"

#include <gtest/gtest.h>

namespace shoal::agent {
namespace {

constexpr DurationNs kTick = 100 * kMillisecond;

// A rank as the judge sees it; looks come every 100 ms of the watch's time.
class StuckJudgeTest : public ::testing::Test {
 protected:
  // Seconds of looks until it is judged stuck; -1: not within `seconds`. `live` runs before each look.
  double Until(
      double seconds, const std::function<void()>& live = [] {}) {
    for (int i = 1; i <= seconds * 10; ++i) {
      live();
      if (Look()) return i / 10.0;
    }
    return -1;
  }
  bool Look() {
    return judge_.Look(
        page_,
        [this] {
          ++asked_;
          return process_;
        },
        kTick);
  }
  void Spin(double share) { process_.threads[0].cpu += static_cast<DurationNs>(share * kTick); }

  StuckJudge judge_;
  PageLook page_{.busy = true, .progress = 7};
  ProcessLook process_{.threads = {{.id = 10, .cpu = 5 * kSecond}, {.id = 11, .cpu = kSecond}}};
  int asked_ = 0;
};

TEST_F(StuckJudgeTest, AsleepOutsideOfAWaitForTwoSeconds) {
  EXPECT_FALSE(Look());  // sees the progress for the first time
  EXPECT_DOUBLE_EQ(Until(5), 2.0);
}

TEST_F(StuckJudgeTest, SpinningForTwoSeconds) {
  Look();
  process_.threads[0].running = true;
  EXPECT_DOUBLE_EQ(Until(5, [&] { Spin(1); }), 2.0);
}

// Another thread of it may be the one that spins.
TEST_F(StuckJudgeTest, SpinningWorkerThread) {
  Look();
  process_.threads[1].running = true;
  EXPECT_DOUBLE_EQ(Until(5, [&] { process_.threads[1].cpu += kTick; }), 2.0);
}

TEST_F(StuckJudgeTest, StarvedRanksAreWaitedFor) {
  Look();
  process_.threads[0].running = true;  // wants a core, gets none
  EXPECT_EQ(Until(600), -1);
}

// Half of a core is enough to be judged, as soon as it has computed for a second; a tenth takes ten seconds.
TEST_F(StuckJudgeTest, AShareOfACoreTakesLonger) {
  Look();
  process_.threads[0].running = true;
  EXPECT_NEAR(Until(60, [&] { Spin(0.1); }), 10.1, 0.21);
  EXPECT_DOUBLE_EQ(Until(60, [&] { ++page_.progress; }), -1);
  EXPECT_NEAR(Until(60, [&] { Spin(0.5); }), 2.1, 0.11);
}

// What many threads compute together is no sign: each of them may be in a task that is not long.
TEST_F(StuckJudgeTest, ManyThreadsComputeTogether) {
  for (int i = 0; i < 64; ++i) process_.threads.push_back({.id = 100 + i, .cpu = 0, .running = true});
  Look();
  EXPECT_EQ(Until(9.9,
                  [&] {
                    for (auto& t : process_.threads) t.cpu += kTick / 10;
                  }),
            -1);
}

TEST_F(StuckJudgeTest, AThreadThatWantsACoreNowAndThenIsNotAsleep) {
  int look = 0;
  Look();
  EXPECT_EQ(Until(600, [&] { process_.threads[1].running = ++look % 19 == 0; }), -1);
}

TEST_F(StuckJudgeTest, IdleRanksAreNeverStuck) {
  page_.busy = false;
  EXPECT_EQ(Until(600), -1);
  EXPECT_EQ(asked_, 0) << "nor is anything read of their processes";
  page_.busy = true;  // its idle time does not count
  EXPECT_DOUBLE_EQ(Until(60), 2.0);
}

TEST_F(StuckJudgeTest, ProgressIsLife) {
  process_.threads[0].running = true;
  int look = 0;
  EXPECT_EQ(Until(600,
                  [&] {
                    Spin(1);
                    if (++look % 20 == 0) ++page_.progress;
                  }),
            -1);
  EXPECT_DOUBLE_EQ(Until(60, [&] { Spin(1); }), 2.0) << "counted from its last sign of life";
}

TEST_F(StuckJudgeTest, ProgressThatGoesBackIsStillAChange) {
  EXPECT_EQ(Until(600, [&] { page_.progress ^= 1; }), -1);
  EXPECT_EQ(asked_, 0);
}

TEST_F(StuckJudgeTest, ARankThatIsReadFromSwapGetsOn) {
  int look = 0;
  EXPECT_EQ(Until(600, [&] { process_.page_faults += ++look % 15 == 0; }), -1);
}

// A look that came late, after the agent was stopped or had no core itself, counts as one that came on time: the rank
// has all of its two seconds.
TEST_F(StuckJudgeTest, WhatTheWatcherMissedDoesNotCount) {
  Look();
  for (int i = 0; i < 19; ++i) EXPECT_FALSE(Look()) << "whatever passed between them";
  EXPECT_TRUE(Look());
}

TEST_F(StuckJudgeTest, AProcessThatIsGoneIsNotJudged) {
  process_.threads.clear();
  EXPECT_EQ(Until(600), -1);
}

TEST_F(StuckJudgeTest, ThreadsThatComeLaterBeginAtWhatTheyHave) {
  Look();
  process_.threads[0].running = true;
  Look();
  process_.threads.push_back({.id = 12, .cpu = 100 * kSecond, .running = true});
  EXPECT_EQ(Until(60), -1);
}

}  // namespace
}  // namespace shoal::agent
