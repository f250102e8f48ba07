#include "tools/cli/restarts.h"

#include <gtest/gtest.h>

#include <vector>

namespace shoal::cli {
namespace {

TEST(Restarts, WaitLongerEachTimeUpToFiveSeconds) {
  Restarts restarts;
  TimeNs now = kSecond;
  std::vector<DurationNs> delays;
  for (int i = 0; i < 8; ++i) {
    restarts.Started(now);
    restarts.Ready();
    now += kSecond;
    delays.push_back(restarts.Ended(now).value_or(-1) / kMillisecond);
  }
  EXPECT_EQ(delays, (std::vector<DurationNs>{100, 200, 400, 800, 1600, 3200, 5000, 5000}));
}

TEST(Restarts, ALongLifeMakesTheWaitShortAgain) {
  Restarts restarts;
  for (int i = 0; i < 4; ++i) {
    restarts.Started(kSecond);
    restarts.Ready();
    restarts.Ended(2 * kSecond);
  }
  restarts.Started(10 * kSecond);
  restarts.Ready();
  EXPECT_EQ(restarts.Ended(40 * kSecond), 100 * kMillisecond);
  restarts.Started(50 * kSecond);
  restarts.Ready();
  EXPECT_EQ(restarts.Ended(50 * kSecond + 29 * kSecond), 200 * kMillisecond);
}

TEST(Restarts, GiveUpWhenItNeverGetsReady) {
  Restarts restarts;
  const auto die = [&](bool ready) {
    restarts.Started(kSecond);
    if (ready) restarts.Ready();
    return restarts.Ended(kSecond + kMillisecond).has_value();
  };
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(die(false)) << i;
  EXPECT_TRUE(die(true)) << "once ready, it is counted from the start again";
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(die(false)) << i;
  EXPECT_FALSE(die(false));
}

TEST(StopWatch, FiveSecondsOnEnd) {
  StopWatch watch;
  TimeNs now = kSecond;
  for (int i = 0; i < 25; ++i, now += 200 * kMillisecond) EXPECT_FALSE(watch.Observe(true, now)) << i;
  EXPECT_FALSE(watch.Observe(false, now)) << "it goes on";
  for (int i = 0; i < 25; ++i, now += 200 * kMillisecond) EXPECT_FALSE(watch.Observe(true, now)) << i;
  EXPECT_TRUE(watch.Observe(true, now));
}

TEST(StopWatch, TimeInWhichNobodyLookedCountsLittle) {
  StopWatch watch;
  EXPECT_FALSE(watch.Observe(true, kSecond));
  EXPECT_FALSE(watch.Observe(true, 3600 * kSecond)) << "the watcher stood still as well";
  EXPECT_FALSE(watch.Observe(true, 3601 * kSecond));
}

}  // namespace
}  // namespace shoal::cli
