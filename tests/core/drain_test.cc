// Agents that give their ranks to others while requests run.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/rng.h"
#include "gtest/gtest.h"
#include "tests/core/requests.h"
#include "tools/sim/virtual_cluster.h"

namespace shoal::core {
namespace {

using sim::AgentSpec, sim::TestOptions, sim::VirtualCluster;

using Phase = ClusterState::Phase;
using AgentState = ClusterState::AgentState;

CoreOptions Options(int32_t tp, int32_t pp, int32_t nnodes) {
  CoreOptions o = TestOptions();
  o.tp = tp;
  o.pp = pp;
  o.nnodes = nnodes;
  return o;
}

// Four requests in flight on agents a and b, 2 x 2.
struct Running {
  explicit Running(CoreOptions options = Options(2, 2, 2)) : cluster(options, {}, 5) {
    cluster.AddAgent({.id = "a", .slots = 2});
    cluster.AddAgent({.id = "b", .slots = 2});
    EXPECT_TRUE(cluster.RunUntilReady());
    for (int i = 1; i <= 4; ++i) requests.push_back(MakeRequest(i, 10 + i, 150));
    for (const GenerateRequest& r : requests) cluster.Submit(r);
    cluster.RunUntil(cluster.now() + 50 * kMillisecond);
  }
  void Drain(const std::string& id) { cluster.Post(DrainRequested{id}); }
  AgentState StateOf(const std::string& id) const {
    for (const auto& agent : cluster.state().agents) {
      if (agent.info.id == id) return agent.state;
    }
    ADD_FAILURE() << "no agent " << id;
    return AgentState::kSilent;
  }
  std::string DetailOf(const std::string& id) const {
    for (const auto& agent : cluster.state().agents) {
      if (agent.info.id == id) return agent.detail;
    }
    return "no such agent";
  }
  bool HasRanks(const std::string& id) const {
    const ClusterState state = cluster.state();
    return std::any_of(state.ranks.begin(), state.ranks.end(), [&](const auto& r) { return r.agent == id; });
  }
  bool RunUntilDrained(const std::string& id) {
    return cluster.RunUntil([&] { return StateOf(id) == AgentState::kDrained; }, 300 * kSecond);
  }
  void RunFor(DurationNs time) { cluster.RunUntil(cluster.now() + time); }
  void Finish() {
    ASSERT_TRUE(cluster.RunUntilAnswered());
    for (const GenerateRequest& r : requests) ExpectAsAlone(cluster, r);
  }
  VirtualCluster cluster;
  std::vector<GenerateRequest> requests;
};

TEST(Drain, TheSpareTakesTheRanksAndNoTokenIsLost) {
  Running run;
  run.cluster.AddAgent({.id = "spare", .slots = 2, .preload_takes = 30 * kMillisecond});
  run.Drain("b");
  EXPECT_EQ(run.StateOf("b"), AgentState::kDraining);
  run.RunFor(25 * kMillisecond);
  // The old group serves while the spare reads.
  EXPECT_EQ(run.cluster.preloads("spare"), 1);
  const uint64_t steps = run.cluster.state().steps;
  EXPECT_EQ(run.cluster.state().phase, Phase::kReady);
  run.RunFor(5 * kMillisecond);
  EXPECT_GT(run.cluster.state().steps, steps);
  ASSERT_TRUE(run.RunUntilDrained("b"));
  EXPECT_GT(run.cluster.state().running + run.cluster.state().waiting, 0) << "nothing ran: it proves little";
  EXPECT_FALSE(run.HasRanks("b"));
  EXPECT_EQ(run.cluster.bytes_read("a"), 2000);  // its two ranks, once, at the start
  EXPECT_EQ(run.cluster.bytes_read("spare"), 2000);
  EXPECT_EQ(run.cluster.state().load_bytes_read, 0);  // before the group was formed
  EXPECT_EQ(run.cluster.state().groups_formed, 2u);
  EXPECT_TRUE(run.cluster.reports().empty()) << "nothing was detected";
  run.cluster.KillAgent("b");  // nobody notices
  run.Finish();
  EXPECT_EQ(run.cluster.state().groups_formed, 2u);
  EXPECT_EQ(run.cluster.state().reforms, 0u);
}

// Where no host has enough slots, the group spans two of them from then on.
TEST(Drain, TheSpareMayBeOnAnotherHost) {
  Running run;
  EXPECT_EQ(run.cluster.state().transport, "shm");
  run.cluster.AddAgent({.id = "spare", .slots = 2, .boot_id = "there"});
  run.Drain("b");
  ASSERT_TRUE(run.RunUntilDrained("b"));
  EXPECT_TRUE(run.HasRanks("spare"));
  EXPECT_EQ(run.cluster.state().transport, "gloo");
  EXPECT_EQ(run.cluster.connects().size(), 2u);
  EXPECT_EQ(run.cluster.state().groups_formed, 2u);
  run.Finish();
}

// While the canary runs, its plans are waited for as those of clients are, and it is no obstacle.
TEST(Drain, WhileTheCanaryRuns) {
  CoreOptions o = Options(2, 2, 2);
  o.canary_interval = 30 * kMillisecond;
  Running run(o);
  run.Finish();
  run.cluster.AddAgent({.id = "spare", .slots = 2});
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().canary_runs; }));
  run.Drain("b");
  ASSERT_TRUE(run.RunUntilDrained("b"));
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().proven; }));
  EXPECT_EQ(run.cluster.state().canary_failures, 0u);
  EXPECT_EQ(run.cluster.state().groups_formed, 2u);
  EXPECT_TRUE(run.cluster.problems().empty());
}

TEST(Drain, ADrainedAgentIsNotPlacedUntilItRegistersAnew) {
  Running run;
  run.cluster.AddAgent({.id = "spare", .slots = 2});
  run.Drain("b");
  ASSERT_TRUE(run.RunUntilDrained("b"));
  run.cluster.KillAgent("spare");
  run.RunFor(5 * kSecond);
  EXPECT_EQ(run.cluster.state().phase, Phase::kWaitingForAgents);
  run.cluster.AddAgent({.id = "b", .slots = 2, .highest_epoch = run.cluster.state().epoch});
  ASSERT_TRUE(run.cluster.RunUntilReady());
  EXPECT_TRUE(run.HasRanks("b"));
  EXPECT_EQ(run.StateOf("b"), AgentState::kServing);
  run.Finish();
}

TEST(Drain, WaitsForAReplacementAndSaysSo) {
  Running run;
  run.Drain("b");
  run.RunFor(20 * kMillisecond);
  EXPECT_NE(run.DetailOf("b").find("there are 1 with 2 slots"), std::string::npos) << run.DetailOf("b");
  run.cluster.AddAgent({.id = "small", .slots = 1});
  EXPECT_EQ(run.cluster.preloads("small"), 0);
  EXPECT_NE(run.DetailOf("b").find("no replacement yet"), std::string::npos) << run.DetailOf("b");
  EXPECT_EQ(run.cluster.state().phase, Phase::kReady);
  run.cluster.AddAgent({.id = "other", .slots = 1});  // with it there are enough
  ASSERT_TRUE(run.RunUntilDrained("b"));
  EXPECT_TRUE(run.HasRanks("small") && run.HasRanks("other"));
  run.Finish();
  EXPECT_EQ(run.cluster.state().groups_formed, 2u);
}

TEST(Drain, SlotsOfAgentsThatStayWillDo) {
  Running run(Options(1, 2, 2));  // one rank each, of two slots
  run.Drain("b");
  ASSERT_TRUE(run.RunUntilDrained("b"));
  EXPECT_EQ(run.cluster.preloads("a"), 1);
  run.Finish();
  EXPECT_EQ(run.cluster.bytes_read("a"), 2000);  // one rank at the start, the other for the drain
}

TEST(Drain, AnAgentThatStaysAndCannotTakeMoreIsAskedOnce) {
  Running run(Options(1, 2, 2));
  run.cluster.RefusePreloads("a", absl::ResourceExhaustedError("no memory for another shard"));
  run.Drain("b");
  run.RunFor(5 * kSecond);
  EXPECT_EQ(run.cluster.preloads("a"), 1);
  EXPECT_TRUE(run.cluster.Logged("lets go of the weights that it has read for others"));
  EXPECT_TRUE(run.cluster.agents().at("a")->Holds(0)) << "that it has a rank for";
  EXPECT_NE(run.DetailOf("b").find("no replacement yet"), std::string::npos) << run.DetailOf("b");
  run.cluster.AddAgent({.id = "spare", .slots = 1});
  ASSERT_TRUE(run.RunUntilDrained("b"));
  EXPECT_TRUE(run.HasRanks("a") && run.HasRanks("spare"));
  run.Finish();
}

// What a replacement cannot do is found while the old group serves.
TEST(Drain, AnUnfitReplacementCostsNothing) {
  for (int kind = 0; kind < 4; ++kind) {
    SCOPED_TRACE(kind);
    Running run;
    AgentSpec spare{.id = "spare", .slots = 2};
    if (kind == 0) spare.numerics_id = "other numerics";
    if (kind == 1) spare.memory_bytes = 1000;
    if (kind == 2) spare.memory_bytes = 1000 + 40 * 1024;  // 160 tokens of 256
    if (kind == 3) spare.preload_error = absl::FailedPreconditionError("another file");
    run.cluster.AddAgent(spare);
    run.Drain("b");
    run.RunFor(60 * kMillisecond);
    EXPECT_NE(run.DetailOf("b").find("no replacement yet"), std::string::npos) << run.DetailOf("b");
    EXPECT_TRUE(run.cluster.Logged("spare on host-boot cannot be the replacement"));
    EXPECT_EQ(run.cluster.state().groups_formed, 1u);
    EXPECT_EQ(run.cluster.state().phase, Phase::kReady);
    run.cluster.AddAgent({.id = "good", .slots = 2});
    ASSERT_TRUE(run.RunUntilDrained("b"));
    EXPECT_TRUE(run.HasRanks("good"));
    run.Finish();
    EXPECT_EQ(run.cluster.state().groups_formed, 2u);
  }
}

TEST(Drain, WhatMayPassIsTriedAgain) {
  Running run;
  run.cluster.AddAgent({.id = "spare", .slots = 2, .preload_error = absl::AbortedError("it is starting")});
  run.Drain("b");
  run.RunFor(3500 * kMillisecond);
  EXPECT_GE(run.cluster.preloads("spare"), 3);
  EXPECT_LE(run.cluster.preloads("spare"), 5);
  run.cluster.RefusePreloads("spare", absl::OkStatus());
  ASSERT_TRUE(run.RunUntilDrained("b"));
  run.Finish();
}

TEST(Drain, ASpareThatDiesWhileItReadsIsReplaced) {
  Running run;
  run.cluster.AddAgent({.id = "spare", .slots = 2});
  run.Drain("b");
  run.RunFor(10 * kMillisecond);
  run.cluster.KillAgent("spare");
  run.RunFor(10 * kMillisecond);
  EXPECT_EQ(run.cluster.state().groups_formed, 1u);
  run.cluster.AddAgent({.id = "second", .slots = 2});
  ASSERT_TRUE(run.RunUntilDrained("b"));
  run.Finish();
}

TEST(Drain, ASpareThatStandsStillIsPassedOver) {
  Running run;
  run.cluster.AddAgent({.id = "slow", .slots = 2, .preload_takes = 100000 * kSecond});
  run.Drain("b");
  run.RunFor(kSecond);
  run.cluster.AddAgent({.id = "second", .slots = 2});
  EXPECT_EQ(run.cluster.preloads("second"), 0);
  ASSERT_TRUE(run.RunUntilDrained("b"));
  EXPECT_TRUE(run.HasRanks("second"));
  EXPECT_TRUE(run.cluster.Logged("stands still while it reads"));
  run.Finish();
}

TEST(Drain, ALossMeanwhileIsARecoveryAndTheDrainGoesOn) {
  Running run;
  run.cluster.AddAgent({.id = "spare", .slots = 2, .preload_takes = kSecond});
  run.Drain("b");
  run.RunFor(20 * kMillisecond);
  run.cluster.KillRank(3, "killed by signal 9");
  const TimeNs killed = run.cluster.now();
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().groups_formed == 2; }));
  // The agent that shall go has weights and caches; the spare has not read them yet.
  EXPECT_LE(run.cluster.now() - killed, 100 * kMillisecond);
  EXPECT_TRUE(run.HasRanks("b"));
  EXPECT_EQ(run.StateOf("b"), AgentState::kDraining);
  EXPECT_EQ(run.cluster.state().resumed, 4u);
  EXPECT_EQ(run.cluster.state().recomputed_tokens, 0u);
  ASSERT_TRUE(run.RunUntilDrained("b"));
  EXPECT_TRUE(run.HasRanks("spare"));
  EXPECT_EQ(run.cluster.state().groups_formed, 3u);
  run.Finish();
}

// The old group serves on beside a spare that cannot take its ranks. When it is lost, the ranks come back where they
// were: not on that spare, neither at first nor ever.
TEST(Drain, ALossBesideAnUnfitReplacementBringsTheGroupBackWhereItWas) {
  Running run;
  run.cluster.AddAgent({.id = "spare",
                        .slots = 2,
                        .join_error = absl::FailedPreconditionError("another file"),
                        .preload_error = absl::FailedPreconditionError("another file")});
  run.Drain("b");
  run.RunFor(20 * kMillisecond);
  EXPECT_TRUE(run.cluster.Logged("cannot be the replacement"));
  for (uint64_t formed = 2; formed <= 4; ++formed) {
    const TimeNs killed = run.cluster.now();
    run.cluster.KillRank(3, "killed by signal 9");
    ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().groups_formed == formed; }));
    EXPECT_LE(run.cluster.now() - killed, 100 * kMillisecond);
    EXPECT_TRUE(run.HasRanks("b"));
    run.RunFor(20 * kMillisecond);
  }
  EXPECT_EQ(run.cluster.state().recomputed_tokens, 0u);
  run.Finish();
}

// The replacement read the weights, and then cannot have them: who gave them away has them still.
TEST(Drain, AHandoverThatFailsGivesTheRanksBack) {
  for (const absl::Status& why : {absl::NotFoundError("no device"), absl::AbortedError("a rank ended")}) {
    for (const bool join : {true, false}) {
      SCOPED_TRACE(absl::StrCat(why.message(), " ", join));
      Running run;
      AgentSpec spare{.id = "spare", .slots = 2};
      (join ? spare.join_error : spare.load_error) = why;
      run.cluster.AddAgent(spare);
      run.Drain("b");
      ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().groups_formed == 2; }, 25 * kSecond));
      EXPECT_TRUE(run.HasRanks("b"));
      EXPECT_EQ(run.StateOf("b"), AgentState::kDraining);
      run.Finish();
    }
  }
}

// Two that shall go, one after the other, while their replacement reads for the first: what it answers to that is no
// answer to what it is asked for then.
TEST(Drain, TwoOntoOneAgent) {
  Running run;
  run.cluster.AddAgent({.id = "c", .slots = 4, .preload_takes = 30 * kMillisecond});
  run.Drain("a");
  run.RunFor(10 * kMillisecond);
  run.Drain("b");
  EXPECT_EQ(run.cluster.preloads("c"), 1);
  run.RunFor(5 * kMillisecond);
  EXPECT_EQ(run.cluster.preloads("c"), 2);
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().groups_formed == 2; }, 10 * kSecond));
  EXPECT_EQ(run.StateOf("a"), AgentState::kDrained);
  EXPECT_EQ(run.StateOf("b"), AgentState::kDrained);
  EXPECT_FALSE(run.cluster.Logged("cannot be the replacement"));
  run.Finish();
}

// From a cluster that has seen more epochs: it takes ours for over.
TEST(Drain, ASpareOfAHigherEpoch) {
  Running run;
  run.cluster.AddAgent({.id = "spare", .slots = 2, .highest_epoch = 40});
  run.Drain("b");
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.StateOf("b") == AgentState::kDrained; }, 10 * kSecond));
  EXPECT_TRUE(run.HasRanks("spare"));
  EXPECT_EQ(run.cluster.preloads("spare"), 1);
  EXPECT_EQ(run.cluster.bytes_read("spare"), 2000);
  EXPECT_EQ(run.cluster.state().epoch, 41u);
  run.Finish();
}

// What was read for the handover is what the group is formed with, also where there are agents for more ranks by then.
TEST(Drain, AGroupThatHadShrunkMovesAsItIs) {
  CoreOptions o = Options(2, 2, 2);
  o.replace_timeout = 2 * kSecond;
  Running run(o);
  run.cluster.KillAgent("b");
  ASSERT_TRUE(run.cluster.RunUntilReady());
  ASSERT_EQ(run.cluster.state().layout, (Layout{1, 2}));
  run.cluster.AddAgent({.id = "c", .slots = 2, .preload_takes = 10 * kMillisecond});
  run.cluster.AddAgent({.id = "d", .slots = 2});
  run.Drain("a");
  ASSERT_TRUE(run.RunUntilDrained("a"));
  EXPECT_EQ(run.cluster.state().layout, (Layout{1, 2}));
  EXPECT_TRUE(run.HasRanks("c"));
  EXPECT_EQ(run.cluster.state().load_bytes_read, 0);
  run.Finish();
}

// Missed while nobody could take its ranks: the group goes on with fewer, and is not to be without it for good.
TEST(Drain, WhomASmallerGroupMissesIsNotDrained) {
  for (const bool frozen : {false, true}) {
    CoreOptions o = Options(2, 2, 2);
    o.replace_timeout = 2 * kSecond;
    Running run(o);
    run.Drain("b");
    run.RunFor(10 * kMillisecond);
    frozen ? run.cluster.FreezeAgent("b", /*ranks_too=*/true) : run.cluster.Cut("b", true, true);
    ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().layout == (Layout{1, 2}); }, 60 * kSecond));
    ASSERT_TRUE(run.cluster.RunUntilReady());
    frozen ? run.cluster.ThawAgent("b") : run.cluster.Heal("b");
    run.RunFor(5 * kSecond);
    EXPECT_EQ(run.StateOf("b"), AgentState::kDraining) << frozen;
    run.cluster.KillAgent("a");
    ASSERT_TRUE(run.cluster.RunUntilReady());
    EXPECT_TRUE(run.HasRanks("b"));
    run.Finish();
  }
}

TEST(Drain, WithoutAReplacementALossBringsTheGroupBackWhereItWas) {
  Running run;
  run.Drain("b");
  run.cluster.KillRank(3, "killed by signal 9");
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().groups_formed == 2; }));
  EXPECT_TRUE(run.HasRanks("b"));
  EXPECT_EQ(run.StateOf("b"), AgentState::kDraining);
  EXPECT_EQ(run.cluster.state().resumed, 4u);
  run.cluster.AddAgent({.id = "spare", .slots = 2});
  ASSERT_TRUE(run.RunUntilDrained("b"));
  run.Finish();
}

TEST(Drain, AnAgentLostWhileItIsDrainedIsLost) {
  Running run;
  run.cluster.AddAgent({.id = "spare", .slots = 2, .preload_takes = kSecond});
  run.Drain("b");
  run.RunFor(20 * kMillisecond);
  run.cluster.KillAgent("b");
  ASSERT_TRUE(run.cluster.RunUntilReady());
  EXPECT_TRUE(run.HasRanks("spare"));
  run.Finish();
}

TEST(Drain, WhoHasNoRanksIsDrainedAtOnceAndTwiceIsOnce) {
  Running run;
  run.cluster.AddAgent({.id = "spare", .slots = 2});
  run.Drain("nobody");
  run.Drain("spare");
  EXPECT_EQ(run.StateOf("spare"), AgentState::kDrained);
  EXPECT_TRUE(run.cluster.Logged("no agent nobody"));
  run.Drain("b");
  run.Drain("b");
  run.RunFor(20 * kMillisecond);
  EXPECT_EQ(run.StateOf("b"), AgentState::kDraining);
  EXPECT_EQ(run.cluster.preloads("spare"), 0);  // it has been drained itself
  run.Finish();
  EXPECT_EQ(run.cluster.state().groups_formed, 1u);
}

TEST(Drain, BothAgentsOneAfterTheOther) {
  Running run;
  run.cluster.AddAgent({.id = "c", .slots = 2});
  run.cluster.AddAgent({.id = "d", .slots = 2});
  run.Drain("a");
  run.Drain("b");
  ASSERT_TRUE(run.RunUntilDrained("a") && run.RunUntilDrained("b"));
  EXPECT_TRUE(run.HasRanks("c") && run.HasRanks("d"));
  run.cluster.KillAgent("a");
  run.cluster.KillAgent("b");
  run.Finish();
}

TEST(Drain, BeforeThereIsAGroup) {
  VirtualCluster cluster(Options(1, 1, 1), {}, 1);
  cluster.AddAgent({.id = "a", .join_error = absl::AbortedError("not yet")});
  cluster.Post(DrainRequested{"a"});
  cluster.AddAgent({.id = "b"});
  ASSERT_TRUE(cluster.RunUntilReady());
  EXPECT_EQ(cluster.state().ranks[0].agent, "b");
  EXPECT_EQ(cluster.state().agents[0].state, AgentState::kDrained);
}

// --- A coordinator that comes after another one goes on with its drains ---

// The next coordinator, with the agents of the one before.
void RestartCoordinator(VirtualCluster& cluster) {
  cluster.CrashCoordinator();
  cluster.RunUntil(cluster.now() + 20 * kMillisecond);
  cluster.RestartCoordinator(/*knows_epochs=*/true);
}

TEST(Drain, IsGoneOnWithByTheNextCoordinator) {
  Running run;
  run.Drain("b");
  run.RunFor(10 * kMillisecond);
  RestartCoordinator(run.cluster);
  ASSERT_TRUE(run.cluster.RunUntilReady());
  EXPECT_TRUE(run.HasRanks("b")) << "there is nobody else";
  EXPECT_EQ(run.StateOf("b"), AgentState::kDraining);
  EXPECT_NE(run.DetailOf("b").find("no replacement yet"), std::string::npos) << run.DetailOf("b");
  EXPECT_EQ(run.cluster.bytes_read("b"), 2000) << "its weights were adopted";
  run.cluster.AddAgent({.id = "spare", .slots = 2});
  ASSERT_TRUE(run.RunUntilDrained("b"));
  EXPECT_TRUE(run.HasRanks("spare"));
}

TEST(Drain, WhoWasDrainedStaysSoUnderTheNextCoordinator) {
  Running run;
  run.cluster.AddAgent({.id = "spare", .slots = 2});
  run.Drain("b");
  ASSERT_TRUE(run.RunUntilDrained("b"));
  run.Finish();
  RestartCoordinator(run.cluster);
  ASSERT_TRUE(run.cluster.RunUntilReady());
  // It holds the same weights as the one that took its ranks.
  EXPECT_TRUE(run.HasRanks("spare"));
  EXPECT_FALSE(run.HasRanks("b"));
  run.RunFor(5 * kSecond);
  EXPECT_EQ(run.StateOf("b"), AgentState::kDrained);
  EXPECT_EQ(run.cluster.bytes_read("spare"), 2000);
  EXPECT_EQ(run.cluster.state().groups_formed, 1u);
}

// Both have the weights when the coordinator ends: the group is formed where it was going.
TEST(Drain, WhoeverReadForTheHandoverIsAdoptedInstead) {
  Running run;
  run.cluster.AddAgent({.id = "spare", .slots = 2, .preload_takes = 20 * kMillisecond});
  run.Drain("b");
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.agents().at("spare")->bytes_read() == 2000; }));
  run.cluster.CrashCoordinator();
  run.RunFor(20 * kMillisecond);
  ASSERT_EQ(run.cluster.agents().at("b")->drain(), plan::DrainState::kDraining);
  run.cluster.Cut("a", true, true);  // all others have registered when it can
  run.cluster.RestartCoordinator(/*knows_epochs=*/true);
  run.RunFor(1200 * kMillisecond);
  run.cluster.Heal("a");
  ASSERT_TRUE(run.cluster.RunUntilReady());
  EXPECT_TRUE(run.HasRanks("spare"));
  EXPECT_EQ(run.StateOf("b"), AgentState::kDrained);
  EXPECT_EQ(run.cluster.bytes_read("spare"), 2000);
}

// Heartbeats say that it has not.
TEST(Drain, AnAgentThatHasNotHeardOfItIsToldAgain) {
  Running run;
  run.cluster.AddAgent({.id = "spare", .slots = 2, .preload_takes = 100 * kSecond});
  run.Drain("b");
  int told = 0;
  sim::Tamper tamper;
  tamper.copies = [&told](const Effect& effect) {
    if (!std::holds_alternative<SendDrain>(effect)) return 1;
    return ++told == 1 ? 0 : 1;  // lost on its way
  };
  run.cluster.Set(tamper);
  run.cluster.AddAgent({.id = "other", .slots = 1});
  run.Drain("other");
  ASSERT_EQ(told, 1);
  EXPECT_EQ(run.cluster.agents().at("other")->drain(), plan::DrainState::kNone);
  run.RunFor(kSecond);
  EXPECT_EQ(told, 2);
  EXPECT_EQ(run.cluster.agents().at("other")->drain(), plan::DrainState::kDrained);
  EXPECT_EQ(run.cluster.agents().at("b")->drain(), plan::DrainState::kDraining);
}

// It was told under a registration that is over.
TEST(Drain, AnAgentThatKnowsMoreIsBelieved) {
  Running run;
  run.cluster.agents().at("b")->Drain(run.cluster.state().epoch, plan::DrainState::kDraining);
  ASSERT_EQ(run.StateOf("b"), AgentState::kServing);
  run.RunFor(kSecond);
  EXPECT_EQ(run.StateOf("b"), AgentState::kDraining);
  run.cluster.AddAgent({.id = "spare", .slots = 2});
  ASSERT_TRUE(run.RunUntilDrained("b"));
  EXPECT_TRUE(run.HasRanks("spare"));
  run.Finish();
}

// --- Weights that were read for a handover that did not come ---

TEST(Drain, WhoReadInVainLetsGoOfIt) {
  Running run;
  run.cluster.AddAgent({.id = "spare", .slots = 2, .join_error = absl::NotFoundError("no device")});
  run.Drain("b");
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.agents().at("spare")->Holds(3); }));
  EXPECT_EQ(run.cluster.bytes_read("spare"), 2000);
  // Who was to be drained comes back as a new process, and has its ranks again: called off.
  run.cluster.KillAgent("b");
  run.cluster.AddAgent({.id = "b", .slots = 2, .highest_epoch = run.cluster.state().epoch});
  ASSERT_TRUE(run.cluster.RunUntilReady());
  EXPECT_TRUE(run.HasRanks("b"));
  run.RunFor(50 * kMillisecond);
  EXPECT_FALSE(run.cluster.agents().at("spare")->Holds(2) || run.cluster.agents().at("spare")->Holds(3));
  run.Finish();
}

TEST(Drain, WhoIsUnfitLetsGoOfWhatItHasRead) {
  Running run;
  run.cluster.AddAgent({.id = "spare", .slots = 2, .numerics_id = "other numerics"});
  run.Drain("b");
  run.RunFor(100 * kMillisecond);
  EXPECT_TRUE(run.cluster.Logged("spare on host-boot cannot be the replacement"));
  EXPECT_EQ(run.cluster.bytes_read("spare"), 2000);
  EXPECT_FALSE(run.cluster.agents().at("spare")->Holds(2));
  EXPECT_EQ(run.cluster.preloads("spare"), 1) << "nor is it asked again";
  EXPECT_EQ(run.cluster.state().groups_formed, 1u);
  EXPECT_EQ(run.cluster.state().stale[static_cast<size_t>(plan::StalePlace::kReply)], 0u);
  run.Finish();
}

// Drains among kills, freezes and comebacks at random: every answer as alone, once.
void RandomDrains(uint64_t seed) {
  SCOPED_TRACE(seed);
  uint64_t draws = 0;
  const auto draw = [&](int low, int high) {
    return low + static_cast<int>(RandomBits(seed, 6, ++draws) % static_cast<uint64_t>(high - low + 1));
  };
  CoreOptions o = Options(draw(1, 2), draw(1, 3), 2);
  o.max_model_len = 60;
  o.kv_blocks = 15 + draw(0, 40);
  o.replace_timeout = draw(0, 3) * kSecond;
  VirtualCluster cluster(o, {}, seed);
  const int slots = o.tp * o.pp;
  for (const char* id : {"a", "b", "c"}) cluster.AddAgent({.id = id, .slots = slots});
  ASSERT_TRUE(cluster.RunUntilReady());
  std::vector<GenerateRequest> requests;
  for (int i = 1; i <= 12; ++i) {
    requests.push_back(MakeRequest(i, draw(1, 20), draw(1, 40)));
    cluster.SubmitAt(cluster.now() + draw(0, 300) * kMillisecond, requests.back());
  }
  for (int k = 0; k < 8; ++k) {
    cluster.RunUntil(cluster.now() + draw(0, 60) * kMillisecond);
    const std::string id(1, static_cast<char>('a' + draw(0, 2)));
    switch (draw(0, 5)) {
      case 0:
        cluster.KillRank(draw(0, slots - 1), "killed by signal 9");
        break;
      case 1:
        cluster.KillAgent(id);
        cluster.RunUntil(cluster.now() + draw(0, 3000) * kMillisecond);
        cluster.AddAgent({.id = id, .slots = draw(1, slots), .highest_epoch = cluster.state().epoch});
        break;
      case 2:
        cluster.FreezeAgent(id);
        cluster.RunUntil(cluster.now() + draw(100, 6000) * kMillisecond);
        cluster.ThawAgent(id);
        break;
      case 3:
        cluster.RefusePreloads(id, draw(0, 1) == 0 ? absl::AbortedError("busy") : absl::NotFoundError("gone"));
        [[fallthrough]];
      default:
        cluster.Post(DrainRequested{id});
    }
  }
  for (const char* id : {"a", "b", "c"}) {  // whoever was drained is there again
    cluster.AddAgent({.id = id, .slots = slots, .highest_epoch = cluster.state().epoch});
  }
  ASSERT_TRUE(cluster.RunUntilAnswered()) << cluster.state().detail;
  for (const GenerateRequest& r : requests) ExpectAsAlone(cluster, r);
  EXPECT_LE(cluster.max_unanswered(), 2);
}

TEST(Drain, AsAloneUnderRandomTrouble) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    RandomDrains(seed);
    if (HasFatalFailure() || HasNonfatalFailure()) return;
  }
}

}  // namespace
}  // namespace shoal::core
