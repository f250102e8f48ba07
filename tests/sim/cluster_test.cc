// The simulated processes behave as the real ones: who notices what, and what is kept.
#include <algorithm>

#include "gtest/gtest.h"
#include "tools/sim/virtual_cluster.h"

namespace shoal::sim {
namespace {

using Phase = core::ClusterState::Phase;

core::GenerateRequest MakeRequest(core::RequestId id, int32_t max_tokens) {
  core::GenerateRequest r;
  r.id = id;
  r.prompt = {static_cast<int32_t>(id), 2, 3, 4, 5};
  r.max_tokens = max_tokens;
  return r;
}

// tp 2 x pp 2 on two agents, with three requests under way.
struct Cluster {
  Cluster() : cluster(Options(), {}, 3) {
    cluster.AddAgent({.id = "a", .slots = 2});
    cluster.AddAgent({.id = "b", .slots = 2});
    EXPECT_TRUE(cluster.RunUntilReady());
    for (int i = 1; i <= 3; ++i) cluster.Submit(MakeRequest(i, 200));
    Pass(50 * kMillisecond);
  }
  static core::CoreOptions Options() {
    core::CoreOptions o = TestOptions();
    o.tp = o.pp = o.nnodes = 2;
    return o;
  }
  void Pass(DurationNs time) { cluster.RunUntil(cluster.now() + time); }
  Phase phase() const { return cluster.state().phase; }
  size_t Tokens() const {
    size_t tokens = 0;
    for (const auto& [id, answer] : cluster.answers()) tokens += answer.tokens.size();
    return tokens;
  }
  void ExpectAsAlone() {
    ASSERT_TRUE(cluster.RunUntilAnswered());
    EXPECT_TRUE(cluster.problems().empty()) << cluster.problems()[0];
    for (int i = 1; i <= 3; ++i) {
      core::FinishReason reason;
      EXPECT_EQ(cluster.answer(i).tokens, LoneRun(MakeRequest(i, 200), &reason)) << i;
    }
  }
  VirtualCluster cluster;
};

TEST(Model, TheNextTokenDependsOnAllBeforeItAndOnTheSeed) {
  core::GenerateRequest r = MakeRequest(1, 50);
  core::FinishReason reason;
  const std::vector<int32_t> tokens = LoneRun(r, &reason);
  EXPECT_EQ(tokens.size(), 50u);
  EXPECT_EQ(reason, core::FinishReason::kLength);
  r.prompt[0] += 1;
  EXPECT_NE(LoneRun(r, &reason), tokens);
  r.prompt[0] -= 1;
  r.sampling.temperature = 1;
  EXPECT_NE(LoneRun(r, &reason), tokens);
  r.sampling.temperature = 0;
  r.stop_tokens = {tokens[9]};
  EXPECT_LE(LoneRun(r, &reason).size(), 9u);
  EXPECT_EQ(reason, core::FinishReason::kStop);
}

TEST(Cluster, ARankThatIsGoneStopsAllOthersUntilItIsReported) {
  Cluster c;
  c.cluster.FreezeAgent("b");  // it cannot say so
  EXPECT_TRUE(c.cluster.KillRank(3, "killed by signal 9"));
  EXPECT_FALSE(c.cluster.KillRank(3, "killed by signal 9"));
  c.Pass(20 * kMillisecond);
  const size_t tokens = c.Tokens();
  c.Pass(kSecond);
  EXPECT_EQ(c.Tokens(), tokens);
  EXPECT_EQ(c.phase(), Phase::kReady);
  c.cluster.ThawAgent("b");
  c.ExpectAsAlone();
  EXPECT_EQ(c.cluster.state().groups_formed, 2u);
  EXPECT_EQ(c.cluster.reads().size(), 4u);  // by the first group
}

TEST(Cluster, ACutIsSilenceToWhomCannotHear) {
  for (const bool to_agent : {true, false}) {
    Cluster c;
    c.cluster.Cut("b", to_agent, !to_agent);
    c.Pass(5 * kSecond);
    // Heartbeats still come where only the way to the agent is cut.
    EXPECT_EQ(c.phase() == Phase::kReady, to_agent);
    c.cluster.Heal("b");
    c.ExpectAsAlone();
    EXPECT_EQ(c.cluster.state().groups_formed, to_agent ? 1u : 2u);
    EXPECT_EQ(c.cluster.reads().size(), 4u);
  }
}

TEST(Cluster, ALongCutBreaksTheConnectionAndTheAgentRegistersAgain) {
  Cluster c;
  c.cluster.Cut("b", true, true);
  c.Pass(20 * kSecond);
  EXPECT_TRUE(c.cluster.Logged("is gone: keepalive"));
  EXPECT_EQ(c.cluster.state().agents.size(), 1u);
  c.cluster.Heal("b");
  c.ExpectAsAlone();
  EXPECT_EQ(c.cluster.reads().size(), 4u);
}

TEST(Cluster, AnAgentThatIsStartedAgainHasNothing) {
  for (const bool silent : {true, false}) {
    Cluster c;
    c.cluster.CrashAgent("b", silent);
    c.Pass(kMillisecond);
    EXPECT_EQ(c.phase() == Phase::kReady, silent);
    c.Pass(kSecond);
    c.cluster.StartAgent({.id = "b", .slots = 2});
    c.ExpectAsAlone();
    EXPECT_EQ(c.cluster.reads().size(), 6u);
    EXPECT_GT(c.cluster.state().recomputed_tokens, 0u);
  }
}

TEST(Cluster, ACoordinatorThatIsStartedAgainCutsWhatIsOpenAndLoadsNothing) {
  for (const bool knows_epochs : {true, false}) {
    Cluster c;
    const uint64_t epoch = c.cluster.state().epoch;
    c.cluster.CrashCoordinator();
    EXPECT_FALSE(c.cluster.coordinator_up());
    for (int i = 1; i <= 3; ++i) EXPECT_TRUE(c.cluster.answer(i).cut);
    c.cluster.Submit(MakeRequest(4, 5));
    EXPECT_TRUE(c.cluster.answer(4).refused);
    c.Pass(2 * kSecond);
    c.cluster.RestartCoordinator(knows_epochs);
    ASSERT_TRUE(c.cluster.RunUntilReady());
    EXPECT_GT(c.cluster.state().epoch, epoch);
    EXPECT_EQ(c.cluster.reads().size(), 4u);
    c.cluster.Submit(MakeRequest(5, 5));
    ASSERT_TRUE(c.cluster.RunUntilAnswered());
    EXPECT_EQ(c.cluster.answer(5).tokens.size(), 5u);
    EXPECT_EQ(c.cluster.state().resumed, 0u);
    EXPECT_TRUE(c.cluster.problems().empty());
  }
}

TEST(Cluster, AFrozenCoordinatorHearsEverythingLater) {
  for (const bool timer_first : {true, false}) {
    Cluster c;
    c.cluster.FreezeCoordinator();
    const size_t tokens = c.Tokens();
    c.Pass(8 * kSecond);
    EXPECT_EQ(c.Tokens(), tokens);
    c.cluster.ThawCoordinator(timer_first);
    c.ExpectAsAlone();
    EXPECT_EQ(c.cluster.state().groups_formed, 1u);
  }
}

TEST(Cluster, GhostsAreNoNews) {
  Cluster c;
  for (int i = 0; i < 20; ++i) {
    if (i == 10) c.cluster.KillRank(1, "killed by signal 9");
    c.cluster.Ghosts(30);
    c.Pass(10 * kMillisecond);
  }
  c.ExpectAsAlone();
  EXPECT_EQ(c.cluster.state().groups_formed, 2u);
  EXPECT_GT(c.cluster.state().stale[static_cast<size_t>(plan::StalePlace::kAnswer)], 50u);
}

TEST(Cluster, AFrozenHostHoldsItsStageInTheMiddleOfAStep) {
  Cluster c;
  c.cluster.FreezeAgent("a", /*ranks_too=*/true);
  c.Pass(10 * kMillisecond);
  const size_t tokens = c.Tokens();
  c.Pass(kSecond);
  EXPECT_EQ(c.Tokens(), tokens);
  c.cluster.ThawAgent("a");
  c.ExpectAsAlone();
  EXPECT_EQ(c.cluster.state().groups_formed, 1u);
}

TEST(Cluster, AClockThatJumpsIsNoSilenceUnlessAgentsTakeItForOne) {
  for (const DurationNs by : {2 * kSecond, 5 * kSecond}) {
    for (const bool timer_first : {true, false}) {
      Cluster c;
      const TimeNs before = c.cluster.now();
      c.cluster.Jump(by, timer_first);
      EXPECT_EQ(c.cluster.now(), before + by);
      c.ExpectAsAlone();
      EXPECT_EQ(c.cluster.state().groups_formed > 1, by > 3 * kSecond);
      EXPECT_EQ(c.cluster.reads().size(), 4u);
    }
  }
}

TEST(Cluster, WhoIsDrainedIsNoHolderOfWeights) {
  Cluster c;
  c.cluster.AddAgent({.id = "c", .slots = 2});
  c.Pass(50 * kSecond);  // all of them have been well for long
  c.cluster.Post(core::DrainRequested{"b"});
  c.Pass(kSecond);
  ASSERT_TRUE(c.cluster.Logged("is drained"));
  EXPECT_EQ(c.cluster.bytes_read("c"), 2000);
  c.cluster.KillAgent("c");
  c.Pass(kSecond);
  c.cluster.AddAgent({.id = "d", .slots = 2});  // reads what the drained one has
  ASSERT_TRUE(c.cluster.RunUntilReady());
  EXPECT_EQ(c.cluster.reads().size(), 6u);
  for (const VirtualCluster::Read& read : c.cluster.reads()) EXPECT_EQ(read.holder, "") << read.rank;
}

TEST(Cluster, ADeadlyPromptKillsARankEachTime) {
  Cluster c;
  c.cluster.KillRanksWith(40);
  core::GenerateRequest deadly = MakeRequest(9, 5);
  deadly.prompt[0] = 40;
  c.cluster.Submit(deadly);
  ASSERT_TRUE(c.cluster.RunUntil([&] { return c.cluster.answer(9).finishes > 0; }));
  EXPECT_EQ(c.cluster.answer(9).finish.error.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(c.cluster.Logged("killed by signal 11"));
}

}  // namespace
}  // namespace shoal::sim
