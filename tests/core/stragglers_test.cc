#include "coordinator/core/stragglers.h"

#include "gtest/gtest.h"

namespace shoal::core {
namespace {

constexpr DurationNs kMs = kMillisecond;

// One step of stage 0; what it settled.
std::vector<Stragglers::Change> Step(Stragglers& s, uint64_t step, const std::vector<DurationNs>& own) {
  std::vector<Stragglers::Change> all;
  for (size_t r = 0; r < own.size(); ++r) {
    for (const auto& change : s.Note(static_cast<int32_t>(r), step, own[r])) all.push_back(change);
  }
  return all;
}

TEST(StragglersTest, TenStepsInARowAboveThreeTimesThePeer) {
  Stragglers s(2, 1);
  for (uint64_t step = 1; step <= 9; ++step) EXPECT_TRUE(Step(s, step, {40 * kMs, 10 * kMs}).empty());
  EXPECT_FALSE(s.straggles(0));
  const auto changes = Step(s, 10, {40 * kMs, 10 * kMs});
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].rank, 0);
  EXPECT_TRUE(changes[0].straggles);
  EXPECT_EQ(changes[0].own, 40 * kMs);
  EXPECT_EQ(changes[0].peers, 10 * kMs);
  EXPECT_TRUE(s.straggles(0));
  EXPECT_FALSE(s.straggles(1));
  for (uint64_t step = 11; step <= 30; ++step) EXPECT_TRUE(Step(s, step, {40 * kMs, 10 * kMs}).empty()) << "said once";
}

TEST(StragglersTest, OneGoodStepBeginsTheCountAnew) {
  Stragglers s(2, 1);
  for (uint64_t step = 1; step <= 95; ++step) {
    EXPECT_TRUE(Step(s, step, {step % 10 == 0 ? 10 * kMs : 40 * kMs, 10 * kMs}).empty());
  }
}

TEST(StragglersTest, AHundredGoodStepsInARowEndIt) {
  Stragglers s(2, 1);
  for (uint64_t step = 1; step <= 15; ++step) Step(s, step, {40 * kMs, 10 * kMs});
  ASSERT_TRUE(s.straggles(0));
  for (uint64_t step = 16; step <= 800; ++step) {
    EXPECT_TRUE(Step(s, step, {step % 100 == 0 ? 40 * kMs : 10 * kMs, 10 * kMs}).empty()) << "one bad step in 100";
  }
  EXPECT_TRUE(s.straggles(0));
  for (uint64_t step = 801; step <= 899; ++step) EXPECT_TRUE(Step(s, step, {10 * kMs, 10 * kMs}).empty());
  const auto changes = Step(s, 900, {10 * kMs, 10 * kMs});
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_FALSE(changes[0].straggles);
  EXPECT_FALSE(s.straggles(0));
}

TEST(StragglersTest, ANewGroupMayBeCutInAnotherWay) {
  Stragglers s(2, 2);
  for (uint64_t step = 1; step <= 15; ++step) {
    s.Note(2, step, 40 * kMs);
    s.Note(3, step, 10 * kMs);
  }
  ASSERT_TRUE(s.straggles(2));
  s.Reset(1, 2);
  EXPECT_FALSE(s.straggles(1));
  EXPECT_EQ(s.mean(1), 0);
  EXPECT_FALSE(s.straggles(2)) << "there is no such rank any more";
  EXPECT_EQ(s.mean(3), 0);
  EXPECT_TRUE(s.Note(1, 1, 40 * kMs).empty()) << "it has no peers";
  EXPECT_EQ(s.mean(1), 40 * kMs);
  s.Reset(3, 2);
  EXPECT_FALSE(s.straggles(5));
  for (uint64_t step = 1; step <= 10; ++step) {
    for (int32_t r = 3; r < 6; ++r) s.Note(r, step, r == 5 ? 40 * kMs : 10 * kMs);
  }
  EXPECT_TRUE(s.straggles(5));
  EXPECT_FALSE(s.straggles(4));
}

TEST(StragglersTest, ExactlyThreeTimesIsNotMore) {
  Stragglers s(2, 1);
  for (uint64_t step = 1; step <= 50; ++step) EXPECT_TRUE(Step(s, step, {30 * kMs, 10 * kMs}).empty());
}

TEST(StragglersTest, TheMedianOfThePeersIsTheMeasure) {
  Stragglers s(4, 1);
  for (uint64_t step = 1; step <= 50; ++step) {
    // One slow peer does not excuse another, and does not make the fast ones slow.
    Step(s, step, {10 * kMs, 200 * kMs, 90 * kMs, 12 * kMs});
  }
  EXPECT_FALSE(s.straggles(0));
  EXPECT_TRUE(s.straggles(1));
  EXPECT_TRUE(s.straggles(2));
  EXPECT_FALSE(s.straggles(3));
}

TEST(StragglersTest, DifferencesBelowAMillisecondAreTheSchedulers) {
  Stragglers s(2, 1);
  for (uint64_t step = 1; step <= 50; ++step) EXPECT_TRUE(Step(s, step, {900 * kMicrosecond, kMicrosecond}).empty());
  for (uint64_t step = 51; step <= 60; ++step) Step(s, step, {kMs + 2 * kMicrosecond, kMicrosecond});
  EXPECT_TRUE(s.straggles(0));
}

TEST(StragglersTest, StagesAreNotCompared) {
  Stragglers s(1, 2);
  for (uint64_t step = 1; step <= 50; ++step) EXPECT_TRUE(Step(s, step, {100 * kMs, kMs}).empty());
  Stragglers t(2, 2);
  for (uint64_t step = 1; step <= 50; ++step) EXPECT_TRUE(Step(t, step, {100 * kMs, 90 * kMs, kMs, kMs}).empty());
}

TEST(StragglersTest, RanksMayBeStepsApart) {
  Stragglers s(2, 1);
  for (uint64_t step = 1; step <= 10; ++step) EXPECT_TRUE(s.Note(0, step, 10 * kMs).empty());
  for (uint64_t step = 1; step <= 9; ++step) EXPECT_TRUE(s.Note(1, step, 40 * kMs).empty());
  ASSERT_EQ(s.Note(1, 10, 40 * kMs).size(), 1u);
  EXPECT_TRUE(s.straggles(1));
}

TEST(StragglersTest, RepeatedStepsCountOnce) {
  Stragglers s(2, 1);
  for (uint64_t step = 1; step <= 9; ++step) {
    for (int again = 0; again < 3; ++again) EXPECT_TRUE(Step(s, step, {40 * kMs, 10 * kMs}).empty());
  }
  EXPECT_FALSE(s.straggles(0));
  EXPECT_EQ(s.mean(1), 10 * kMs);
}

TEST(StragglersTest, ANewGroupKnowsNothing) {
  Stragglers s(2, 1);
  for (uint64_t step = 1; step <= 12; ++step) Step(s, step, {40 * kMs, 10 * kMs});
  ASSERT_TRUE(s.straggles(0));
  s.Reset(2, 1);
  EXPECT_FALSE(s.straggles(0));
  EXPECT_EQ(s.mean(0), 0);
  for (uint64_t step = 1; step <= 9; ++step) EXPECT_TRUE(Step(s, step, {40 * kMs, 10 * kMs}).empty());
  EXPECT_EQ(Step(s, 10, {40 * kMs, 10 * kMs}).size(), 1u);
}

TEST(StragglersTest, TimesThatMakeNoSenseCountAsNothing) {
  Stragglers s(2, 1);
  for (uint64_t step = 1; step <= 20; ++step) Step(s, step, {-5 * kMs, -1});
  EXPECT_EQ(s.mean(0), 0);
  EXPECT_FALSE(s.straggles(0));
  EXPECT_FALSE(s.straggles(1));
}

}  // namespace
}  // namespace shoal::core
