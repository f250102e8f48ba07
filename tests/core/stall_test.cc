// Groups that stand still without anybody dying, ranks that hold up their peers, and what is written down of both.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/rng.h"
#include "coordinator/core/flight.h"
#include "coordinator/core/stall_watch.h"
#include "gtest/gtest.h"
#include "tests/core/requests.h"
#include "tools/sim/virtual_cluster.h"

namespace shoal::core {
namespace {

using sim::ClusterTimes, sim::LoneRun, sim::TestOptions, sim::VirtualCluster;

using Phase = ClusterState::Phase;

bool Contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

CoreOptions Options(int32_t tp, int32_t pp) {
  CoreOptions o = TestOptions();
  o.tp = tp;
  o.pp = pp;
  return o;
}

plan::RankStatus Status(int32_t rank, plan::RankState state, std::optional<int32_t> waiting_for,
                        const std::string& operation, uint64_t step) {
  plan::RankStatus s;
  s.rank = rank;
  s.pid = 900 + rank;
  s.state = state;
  s.waiting_for = waiting_for;
  s.operation = operation;
  s.step = step;
  s.progress = 5000;
  return s;
}

// A group of 2 in which a request runs that nobody answers any more.
class StallTest : public ::testing::Test {
 protected:
  void Begin(ClusterTimes times = {}) {
    cluster_ = std::make_unique<VirtualCluster>(Options(2, 1), times, 1);
    cluster_->AddAgent({.id = "a", .slots = 2});
    ASSERT_TRUE(cluster_->RunUntilReady());
    cluster_->Hang();
    cluster_->Submit(request_);
    hung_ = cluster_->now();
  }
  // Until the group is lost; false when that takes longer than `limit` since it hung.
  bool RunUntilLost(DurationNs limit) {
    return cluster_->RunUntil([this] { return cluster_->state().epoch > 1; }, hung_ + limit - cluster_->now());
  }
  // The group that comes after it answers as if nothing had been.
  void ExpectAsAlone() {
    ASSERT_TRUE(cluster_->RunUntilAnswered());
    FinishReason reason;
    EXPECT_EQ(cluster_->answer(1).tokens, LoneRun(request_, &reason));
    EXPECT_TRUE(cluster_->problems().empty()) << cluster_->problems().front();
  }

  const GenerateRequest request_ = MakeRequest(1, 8, 20);
  std::unique_ptr<VirtualCluster> cluster_;
  TimeNs hung_ = 0;
};

TEST_F(StallTest, RanksThatWaitForEachOtherAreNamedAndReplaced) {
  Begin();
  cluster_->Show(Status(0, plan::RankState::kRunning, 1, "all-reduce after attention", 0));
  cluster_->Show(Status(1, plan::RankState::kRunning, 0, "gathering logits", 0));
  EXPECT_FALSE(RunUntilLost(10 * kSecond));
  ASSERT_TRUE(RunUntilLost(12 * kSecond));
  EXPECT_TRUE(
      cluster_->Logged("ranks wait for each other: rank 0 on host-boot (all-reduce after attention, step 0 "
                       "done) for rank 1 on host-boot (gathering logits, step 0 done) for rank 0"));
  ASSERT_EQ(cluster_->reports().size(), 1u);
  const StallReport& report = *cluster_->reports()[0];
  EXPECT_EQ(report.culprit.what, Detection::kDeadline);
  EXPECT_EQ(report.culprit.rank, -1);
  EXPECT_EQ(report.state.epoch, 1u);
  ASSERT_EQ(report.state.ranks.size(), 2u);
  EXPECT_EQ(report.state.ranks[1].status.pid, 901);
  EXPECT_EQ(report.state.ranks[1].status.waiting_for, 0);
  EXPECT_EQ(report.state.running, 1);
  ASSERT_FALSE(report.plans.empty());
  EXPECT_EQ(report.plans.back().step, 1u + report.plans.size() - 1);
  EXPECT_EQ(report.plans[0].tokens, 8);
  EXPECT_FALSE(report.plans[0].answered);
  EXPECT_TRUE(Contains(report.next, "epoch 2 is formed at once; requests that go on then: 1")) << report.next;
  ExpectAsAlone();
}

// Ranks between which nothing gets through wait for each other: that is no request's doing, however often.
TEST_F(StallTest, OnlyAStallOfOneRankIsTheRequestsFault) {
  for (const bool circle : {true, false}) {
    Begin();
    for (int times = 0; times < 3; ++times) {
      if (times > 0) {
        ASSERT_TRUE(cluster_->RunUntilReady());
        cluster_->Hang();
      }
      cluster_->Show(Status(0, plan::RankState::kRunning, 1, "all-reduce after attention", 0));
      cluster_->Show(circle ? Status(1, plan::RankState::kRunning, 0, "gathering logits", 0)
                            : Status(1, plan::RankState::kReady, std::nullopt, "waiting for a plan", 0));
      const uint64_t epoch = cluster_->state().epoch;
      ASSERT_TRUE(cluster_->RunUntil([&] { return cluster_->state().epoch > epoch; }, 15 * kSecond));
    }
    EXPECT_EQ(cluster_->state().poisoned, circle ? 0u : 1u);
    if (circle) ExpectAsAlone();
  }
}

TEST_F(StallTest, TheOneThatWaitsForNobodyIsToBlame) {
  Begin();
  cluster_->Show(Status(0, plan::RankState::kRunning, 1, "all-reduce after attention", 0));
  cluster_->Show(Status(1, plan::RankState::kReady, std::nullopt, "waiting for a plan", 0));
  EXPECT_FALSE(RunUntilLost(10 * kSecond));
  ASSERT_TRUE(RunUntilLost(12 * kSecond));
  EXPECT_TRUE(cluster_->Logged("rank 1 on host-boot (waiting for a plan, step 0 done), waits for no rank"));
  EXPECT_EQ(cluster_->reports().at(0)->culprit.rank, 1);
  ExpectAsAlone();
}

TEST_F(StallTest, ARankWhoseAnswerIsNotTakenIsToBlame) {
  Begin();
  cluster_->Show(Status(0, plan::RankState::kRunning, plan::RankStatus::kAgent, "handing over its answer", 0));
  cluster_->Show(Status(1, plan::RankState::kRunning, 0, "all-reduce after embedding", 0));
  ASSERT_TRUE(RunUntilLost(12 * kSecond));
  EXPECT_EQ(cluster_->reports().at(0)->culprit.rank, 0);
}

TEST_F(StallTest, AnAnswerThatIsMissingIsSaidToBe) {
  Begin();
  for (int32_t r = 0; r < 2; ++r) {
    cluster_->Show(Status(r, plan::RankState::kReady, std::nullopt, "waiting for a plan", 2));
  }
  ASSERT_TRUE(RunUntilLost(12 * kSecond));
  EXPECT_TRUE(cluster_->Logged("an answer is missing"));
  EXPECT_EQ(cluster_->reports().at(0)->culprit.rank, -1);
  ExpectAsAlone();
}

// Its agent sees whether it has a core, and judges far earlier.
TEST_F(StallTest, ABusyRankHasSixTimesAsLong) {
  Begin();
  cluster_->Show(Status(0, plan::RankState::kRunning, std::nullopt, "attention", 0));
  cluster_->Show(Status(1, plan::RankState::kRunning, 0, "all-reduce after attention", 0));
  EXPECT_FALSE(RunUntilLost(60 * kSecond));
  ASSERT_TRUE(RunUntilLost(62 * kSecond));
  EXPECT_EQ(cluster_->reports().at(0)->culprit.rank, 0);
  ExpectAsAlone();
}

TEST_F(StallTest, ARankThatGetsOnIsNeverLost) {
  Begin();
  plan::RankStatus slow = Status(0, plan::RankState::kRunning, 1, "attention", 0);
  cluster_->Show(Status(1, plan::RankState::kRunning, 0, "all-reduce after attention", 0));
  for (int i = 0; i < 20; ++i) {
    ++slow.progress;
    cluster_->Show(slow);
    cluster_->RunUntil(cluster_->now() + 9 * kSecond);
  }
  EXPECT_EQ(cluster_->state().epoch, 1u);
  EXPECT_TRUE(RunUntilLost(cluster_->now() - hung_ + 12 * kSecond)) << "once it does not";
}

TEST_F(StallTest, OnlyTimeInWhichTheTimerRanOnScheduleCounts) {
  Begin({.timer_late = 2 * kSecond});  // every tick of 0.5 s takes 2.5 s
  for (int32_t r = 0; r < 2; ++r) cluster_->Show(Status(r, plan::RankState::kRunning, 1 - r, "attention", 0));
  EXPECT_FALSE(RunUntilLost(45 * kSecond));
  EXPECT_TRUE(RunUntilLost(60 * kSecond));
}

TEST_F(StallTest, AGroupWithoutWorkIsNeverLost) {
  cluster_ = std::make_unique<VirtualCluster>(Options(2, 2), ClusterTimes{}, 1);
  cluster_->AddAgent({.id = "a", .slots = 4});
  ASSERT_TRUE(cluster_->RunUntilReady());
  for (int32_t r = 0; r < 4; ++r) {
    cluster_->Show(Status(r, plan::RankState::kReady, std::nullopt, "waiting for a plan", 0));
  }
  cluster_->RunUntil(100 * kSecond);
  EXPECT_EQ(cluster_->state().epoch, 1u);
  EXPECT_TRUE(cluster_->reports().empty());
}

// Heartbeats come from outside.
TEST(StallWatchTest, SurvivesAnyRankNumber) {
  for (const int32_t peer : {-5, 2, 1 << 30, INT32_MIN, INT32_MAX}) {
    StallWatch watch(kSecond);
    ClusterState state{};
    for (int32_t r = 0; r < 2; ++r) {
      ClusterState::Rank rank{};
      rank.rank = r;
      rank.status = Status(r, plan::RankState::kRunning, peer, "attention", 9);
      state.ranks.push_back(rank);
    }
    watch.Expect(true, kSecond);
    std::optional<StallWatch::Stall> stall;
    for (int i = 0; i < 20 && !stall.has_value(); ++i) stall = watch.Tick(state, 9, watch.NextTimer());
    ASSERT_TRUE(stall.has_value());
    EXPECT_TRUE(Contains(stall->why, "step 9 was sent")) << stall->why;
  }
}

TEST(ReportTest, EveryLossSaysWhatItWasAndWho) {
  struct Case {
    std::function<void(VirtualCluster&)> what;
    Detection detection;
    int32_t rank;
    std::string agent;
  };
  const std::vector<Case> cases = {
      {[](auto& c) { c.KillRank(2, "killed by signal 9"); }, Detection::kExited, 2, "b"},
      {[](auto& c) { c.KillRank(1, "stopped by signal 19"); }, Detection::kStopped, 1, "a"},
      {[](auto& c) { c.KillRank(3, "stuck in attention at step 7"); }, Detection::kStuck, 3, "b"},
      {[](auto& c) { c.KillAgent("b"); }, Detection::kAgentLost, -1, "b"},
      {[](auto& c) { c.FreezeAgent("b"); }, Detection::kSilent, -1, "b"},
      {[](auto& c) { c.FailStep("out of memory"); }, Detection::kBroken, 0, ""},
  };
  for (const Case& wanted : cases) {
    SCOPED_TRACE(DetectionName(wanted.detection));
    CoreOptions options = Options(2, 2);
    options.nnodes = 2;
    VirtualCluster cluster(options, {}, 3);
    cluster.AddAgent({.id = "a", .slots = 2});
    cluster.AddAgent({.id = "b", .slots = 2});
    ASSERT_TRUE(cluster.RunUntilReady());
    cluster.Submit(MakeRequest(1, 8, 60));
    cluster.RunUntil(cluster.now() + 20 * kMillisecond);
    EXPECT_TRUE(cluster.reports().empty());
    wanted.what(cluster);
    ASSERT_TRUE(cluster.RunUntil([&] { return !cluster.reports().empty(); }, 10 * kSecond));
    const StallReport& report = *cluster.reports()[0];
    EXPECT_EQ(report.culprit.what, wanted.detection);
    EXPECT_EQ(report.culprit.rank, wanted.rank);
    EXPECT_EQ(report.culprit.agent, wanted.agent);
    EXPECT_EQ(report.state.epoch, 1u);
    EXPECT_EQ(report.state.ranks.size(), 4u);
    EXPECT_EQ(report.state.running, 1);
    EXPECT_FALSE(report.reason.empty());
    EXPECT_FALSE(report.next.empty());
    ASSERT_FALSE(report.plans.empty());
    EXPECT_LE(report.plans.size(), Flight::kRecent);
    EXPECT_TRUE(report.plans.front().answered) << "some steps went well before";
    for (size_t i = 1; i < report.plans.size(); ++i) EXPECT_EQ(report.plans[i].step, report.plans[0].step + i);
    EXPECT_GT(report.state.ranks[0].answered, 0u);
  }
}

TEST(StragglerTest, IsNamedOnceUntilItRecovers) {
  VirtualCluster cluster(Options(2, 2), {}, 1);
  cluster.AddAgent({.id = "a", .slots = 4});
  ASSERT_TRUE(cluster.RunUntilReady());
  const auto slow_lines = [&] {
    return std::count_if(cluster.log().begin(), cluster.log().end(),
                         [](const LogLine& line) { return Contains(line.text, "rank 3 is slow"); });
  };
  const auto run = [&](RequestId id) {
    cluster.Submit(MakeRequest(id, 4, 130));
    ASSERT_TRUE(cluster.RunUntilAnswered());
  };
  run(1);
  EXPECT_EQ(slow_lines(), 0);
  EXPECT_EQ(cluster.state().ranks[3].own_time, kMillisecond);
  cluster.SetOwnTime(3, 5 * kMillisecond);
  run(2);
  run(3);
  EXPECT_EQ(slow_lines(), 1) << "although it went on";
  for (const auto& rank : cluster.state().ranks) EXPECT_EQ(rank.straggles, rank.rank == 3) << rank.rank;
  EXPECT_GT(cluster.state().ranks[3].own_time, 3 * kMillisecond);
  ASSERT_EQ(cluster.reports().size(), 1u);
  EXPECT_EQ(cluster.reports()[0]->culprit.what, Detection::kStraggler);
  EXPECT_EQ(cluster.reports()[0]->culprit.rank, 3);
  EXPECT_EQ(cluster.reports()[0]->state.epoch, 1u);
  EXPECT_EQ(cluster.state().epoch, 1u) << "nothing is done about it";
  cluster.SetOwnTime(3, kMillisecond);
  run(4);
  EXPECT_TRUE(cluster.Logged("rank 3 keeps up with its peers again"));
  EXPECT_FALSE(cluster.state().ranks[3].straggles);
  cluster.SetOwnTime(3, 5 * kMillisecond);
  run(5);
  EXPECT_EQ(slow_lines(), 2);
  EXPECT_TRUE(cluster.problems().empty());
}

}  // namespace
}  // namespace shoal::core
