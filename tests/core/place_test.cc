// Where a group goes: after the coordinator was restarted, and while agents cannot do what they are asked for.
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

CoreOptions Options(DurationNs replace_timeout = 2 * kSecond) {
  CoreOptions o = TestOptions();
  o.tp = 2;
  o.pp = 2;
  o.nnodes = 2;
  o.replace_timeout = replace_timeout;
  return o;
}

void ExpectServes(VirtualCluster& cluster, RequestId id) {
  const GenerateRequest r = MakeRequest(id, 8, 20);
  cluster.Submit(r);
  ASSERT_TRUE(cluster.RunUntilAnswered(60 * kSecond));
  ExpectAsAlone(cluster, r);
}

// --- A coordinator that follows another one ---

TEST(Follows, AGroupThatWasOnFewerAgentsThanAskedForIsAdopted) {
  for (const bool knows_epochs : {true, false}) {
    VirtualCluster cluster(Options(), {}, 1);
    cluster.AddAgent({.id = "a", .slots = 4});
    cluster.AddAgent({.id = "b", .slots = 4});
    ASSERT_TRUE(cluster.RunUntilReady());
    cluster.KillAgent("b");
    ASSERT_TRUE(cluster.RunUntilReady());
    ASSERT_EQ(cluster.state().layout, (Layout{2, 2}));
    const size_t reads = cluster.reads().size();
    cluster.CrashCoordinator();
    cluster.RestartCoordinator(knows_epochs);
    ASSERT_TRUE(cluster.RunUntilReady(10 * kSecond)) << cluster.state().detail;
    EXPECT_EQ(cluster.state().layout, (Layout{2, 2}));
    EXPECT_EQ(cluster.reads().size(), reads);
    ExpectServes(cluster, 1);
  }
}

TEST(Follows, AGroupThatHadShrunkIsAdoptedAsItWas) {
  for (const DurationNs replace_timeout : {2 * kSecond, 60 * kSecond}) {
    VirtualCluster cluster(Options(replace_timeout), {}, 1);
    cluster.AddAgent({.id = "a", .slots = 2});
    cluster.AddAgent({.id = "b", .slots = 2});
    ASSERT_TRUE(cluster.RunUntilReady());
    cluster.KillAgent("b");
    ASSERT_TRUE(cluster.RunUntilReady(90 * kSecond));
    ASSERT_EQ(cluster.state().layout, (Layout{1, 2}));
    const size_t reads = cluster.reads().size();
    cluster.CrashCoordinator();
    cluster.RestartCoordinator(true);
    ASSERT_TRUE(cluster.RunUntilReady(10 * kSecond)) << cluster.state().detail;
    EXPECT_EQ(cluster.state().layout, (Layout{1, 2}));
    EXPECT_EQ(cluster.reads().size(), reads);
    ExpectServes(cluster, 1);
    // It is no first group: one that comes makes it whole again.
    cluster.AddAgent({.id = "b", .slots = 2});
    ASSERT_TRUE(cluster.RunUntil([&] { return cluster.state().groups_formed == 2; }));
    EXPECT_EQ(cluster.state().layout, (Layout{2, 2}));
  }
}

// The host is lost while there is no coordinator: nobody holds all weights, and nobody comes.
TEST(Follows, WithoutEnoughAgentsItShrinksInItsTime) {
  VirtualCluster cluster(Options(), {}, 1);
  cluster.AddAgent({.id = "a", .slots = 2});
  cluster.AddAgent({.id = "b", .slots = 2});
  ASSERT_TRUE(cluster.RunUntilReady());
  cluster.CrashCoordinator();
  cluster.CrashAgent("b", /*silent=*/true);
  cluster.RestartCoordinator(true);
  ASSERT_TRUE(cluster.RunUntilReady(10 * kSecond)) << cluster.state().detail;
  EXPECT_EQ(cluster.state().layout, (Layout{1, 2}));
  ExpectServes(cluster, 1);
}

// An agent that knows of nothing came first, long before those that tell that there was a group.
TEST(Follows, WhoHoldsWeightsIsWaitedForSinceTheFirstOfThem) {
  CoreOptions o = Options();
  o.tp = 1;
  VirtualCluster cluster(o, {}, 1);
  const char* key = "r1/files/tp1xpp2/null";
  cluster.AddAgent({.id = "new"});
  cluster.RunUntil(10 * kSecond);
  cluster.AddAgent({.id = "a", .held_ranks = {0}, .held_model = key});
  cluster.RunUntil(11 * kSecond);
  EXPECT_EQ(cluster.state().phase, Phase::kWaitingForAgents);
  cluster.AddAgent({.id = "b", .held_ranks = {1}, .held_model = key});
  ASSERT_TRUE(cluster.RunUntilReady());
  EXPECT_TRUE(cluster.reads().empty());
}

// What an agent says that it holds comes from outside.
TEST(Follows, WeightsOfNoLayoutThatCouldBeFormedSayNothing) {
  for (const char* key :
       {"r1/files/tp4xpp2/null", "r1/files/tp0xpp2/null", "r1/files/tp-1xpp-2/null", "r1/files/tp1xpp",
        "r1/files/tp99999999999xpp1/null", "r1/tp", "r1/files/tp2xpp7/null", "r2/files/tp1xpp2/null"}) {
    VirtualCluster cluster(Options(), {}, 1);
    cluster.AddAgent({.id = "a", .slots = 4, .held_ranks = {0, 1}, .held_model = key});
    cluster.RunUntil(10 * kSecond);
    EXPECT_EQ(cluster.state().phase, Phase::kWaitingForAgents) << key;
    EXPECT_TRUE(cluster.joins().empty()) << key;
  }
  VirtualCluster twice(Options(), {}, 1);
  twice.AddAgent({.id = "a", .slots = 2, .held_ranks = {0, 0, 1, -3, 77}, .held_model = "r1/files/tp1xpp2/null"});
  EXPECT_TRUE(twice.RunUntilReady(10 * kSecond)) << twice.state().detail;
}

// Its predecessor served: what goes wrong now is no reason to end.
TEST(Follows, NothingIsFinal) {
  for (const bool adopts : {true, false}) {
    for (const absl::Status& why : {absl::NotFoundError("the file has moved"), absl::AbortedError("a rank ended")}) {
      CoreOptions o = Options();
      o.adopts = adopts;
      VirtualCluster cluster(o, {}, 1);
      AgentSpec spec{.id = "a", .slots = 4, .join_error = why};
      if (!adopts) spec.held_ranks = {0, 1, 2, 3}, spec.held_model = "r1/files/tp2xpp2/null";
      cluster.AddAgent(spec);
      cluster.RunUntil(60 * kSecond);
      EXPECT_NE(cluster.state().phase, Phase::kFailed);
      EXPECT_GT(cluster.joins().size(), 5u);
      EXPECT_LT(cluster.joins().size(), 40u);
      cluster.RefuseJoins("a", absl::OkStatus());
      ASSERT_TRUE(cluster.RunUntilReady(10 * kSecond));
      ExpectServes(cluster, 1);
    }
  }
}

// --- Agents that cannot do it ---

// Four requests in flight on agents a and b, 2 x 2.
struct Running {
  explicit Running(DurationNs replace_timeout = 2 * kSecond) : cluster(Options(replace_timeout), {}, 5) {
    cluster.AddAgent({.id = "a", .slots = 2});
    cluster.AddAgent({.id = "b", .slots = 2});
    EXPECT_TRUE(cluster.RunUntilReady());
    for (int i = 1; i <= 4; ++i) requests.push_back(MakeRequest(i, 10 + i, 150));
    for (const GenerateRequest& r : requests) cluster.Submit(r);
    RunFor(50 * kMillisecond);
  }
  void RunFor(DurationNs time) { cluster.RunUntil(cluster.now() + time); }
  Layout layout() const { return cluster.state().layout; }
  void Finish() {
    ASSERT_TRUE(cluster.RunUntilAnswered());
    for (const GenerateRequest& r : requests) ExpectAsAlone(cluster, r);
  }
  VirtualCluster cluster;
  std::vector<GenerateRequest> requests;
};

AgentSpec Bad(int kind) {
  AgentSpec spec{.id = "bad", .slots = 2};
  if (kind == 0) spec.join_error = absl::NotFoundError("no such file");
  if (kind == 1) spec.load_error = absl::DataLossError("truncated");
  if (kind == 2) spec.numerics_id = "other numerics";
  if (kind == 3) spec.memory_bytes = 1000;
  if (kind == 4) spec.load_error = absl::AbortedError("a rank ended");
  return spec;
}

TEST(Refused, ALossOfASmallerGroupIsHealedBesideABadAgent) {
  for (int kind = 0; kind <= 4; ++kind) {
    SCOPED_TRACE(kind);
    Running run;
    run.cluster.KillAgent("b");
    ASSERT_TRUE(run.cluster.RunUntilReady());
    ASSERT_EQ(run.layout(), (Layout{1, 2}));
    run.cluster.AddAgent(Bad(kind));
    run.RunFor(10 * kMillisecond);
    run.cluster.KillRank(0, "killed by signal 9");
    ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().groups_formed == 3; }, 10 * kSecond));
    EXPECT_EQ(run.layout(), (Layout{1, 2}));
    run.Finish();
  }
}

TEST(Refused, ABadAgentDoesNotKeepTheGroupFromShrinking) {
  for (int kind = 0; kind <= 4; ++kind) {
    SCOPED_TRACE(kind);
    Running run;
    run.cluster.AddAgent(Bad(kind));
    run.cluster.KillAgent("b");
    ASSERT_TRUE(run.cluster.RunUntilReady(20 * kSecond)) << run.cluster.state().detail;
    EXPECT_EQ(run.layout(), (Layout{1, 2}));
    run.Finish();
  }
}

// Who is killed from outside while it starts holds its weights still.
TEST(Refused, KillsFromOutsideMoveNoRank) {
  Running run;
  run.cluster.AddAgent({.id = "spare", .slots = 2});
  run.cluster.KillRank(3, "killed by signal 9");
  const size_t reads = run.cluster.reads().size();
  for (int i = 0; i < 6; ++i) {
    ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().phase == Phase::kLoading; }));
    ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().load_bytes_done > 0; }));
    run.cluster.KillRank(3, "killed by signal 9");
    ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().phase != Phase::kLoading; }));
  }
  run.Finish();
  EXPECT_EQ(run.cluster.reads().size(), reads);
  EXPECT_EQ(run.cluster.state().recomputed_tokens, 0u);
}

// Of two spares the one that can do it is found, whichever comes first.
TEST(Refused, AnotherAgentIsTriedBeforeTheSameAgain) {
  for (int kind = 0; kind <= 4; ++kind) {
    SCOPED_TRACE(kind);
    Running run(/*replace_timeout=*/0);
    run.cluster.AddAgent(Bad(kind));
    run.cluster.AddAgent({.id = "good", .slots = 2});
    run.cluster.KillAgent("b");
    ASSERT_TRUE(run.cluster.RunUntilReady(10 * kSecond)) << run.cluster.state().detail;
    EXPECT_EQ(run.layout(), (Layout{2, 2}));
    run.Finish();
  }
}

// All that are there refuse; what was wrong with one of them is put right.
TEST(Refused, AllAreTriedAgainAndAgain) {
  for (const char* healed : {"c", "d"}) {
    Running run(/*replace_timeout=*/0);
    for (const char* id : {"c", "d"}) {
      run.cluster.AddAgent({.id = id, .slots = 2, .join_error = absl::ResourceExhaustedError("no memory")});
    }
    run.cluster.KillAgent("b");
    run.RunFor(8 * kSecond);
    EXPECT_NE(run.cluster.state().phase, Phase::kReady);
    run.cluster.RefuseJoins(healed, absl::OkStatus());
    ASSERT_TRUE(run.cluster.RunUntilReady(20 * kSecond)) << healed;
    run.Finish();
  }
}

// One that refused for a while is as good as any once it registers again, or after another group was ready.
TEST(Refused, NothingIsHeldAgainstAnAgentForEver) {
  Running run;
  run.cluster.AddAgent(Bad(0));
  run.cluster.KillAgent("b");
  ASSERT_TRUE(run.cluster.RunUntilReady());
  ASSERT_EQ(run.layout(), (Layout{1, 2}));
  run.cluster.RefuseJoins("bad", absl::OkStatus());
  run.cluster.KillRank(0, "killed by signal 9");
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().groups_formed == 3; }));
  EXPECT_EQ(run.layout(), (Layout{2, 2}));
  run.Finish();
}

// --- Requests that wait for weights ---

// 40 s for a shard, and a word about it every 5 s.
TEST(Outage, RequestsWaitWhileTheReplacementLoads) {
  Running run(/*replace_timeout=*/0);
  plan::AgentInfo info;
  info.id = "slow";
  info.build_id = TestOptions().build_id;
  info.boot_id = "boot";
  info.slots.resize(2);
  run.cluster.KillAgent("b");
  run.cluster.Post(AgentRegistered{info});
  const TimeNs lost = run.cluster.now();
  const uint64_t epoch = run.cluster.state().epoch;
  const auto beat = [&] {
    plan::Heartbeat heartbeat;
    heartbeat.agent = "slow";
    heartbeat.epoch = epoch;
    run.cluster.Post(HeartbeatReceived{heartbeat});
  };
  run.RunFor(20 * kMillisecond);
  plan::JoinReply reply{"numerics", {}};
  for (const auto& rank : run.cluster.state().ranks) {
    if (rank.agent == "slow") reply.ranks.push_back({rank.rank, 1000, 1000, 1024, 1 << 20});
  }
  ASSERT_EQ(reply.ranks.size(), 2u);
  run.cluster.Post(JoinAnswered{"slow", epoch, reply});
  ASSERT_EQ(run.cluster.state().phase, Phase::kLoading);
  for (int second = 1; second <= 40; ++second) {
    run.cluster.RunUntil(lost + second * kSecond);
    beat();
    if (second % 5 == 0) {
      run.cluster.Post(LoadAdvanced{epoch, {"slow", second * 100, 4000, false, false, second * 100, {}, {}}});
    }
  }
  EXPECT_EQ(run.cluster.state().phase, Phase::kLoading);
  EXPECT_EQ(run.cluster.state().waiting, 4);
  // Without progress they wait no longer than for any other group.
  for (int second = 41; second <= 75; ++second) {
    run.cluster.RunUntil(lost + second * kSecond);
    beat();
    EXPECT_EQ(run.cluster.state().waiting, second < 70 ? 4 : 0) << second;
  }
}

// A group that loads and fails again and again is no group: it ends, however much each attempt reads.
TEST(Outage, LoadsThatNeverEndWellAreNotWaitedForForEver) {
  Running run(/*replace_timeout=*/0);
  run.cluster.KillRank(3, "killed by signal 9");
  const TimeNs lost = run.cluster.now();
  while (run.cluster.answer(1).finishes == 0 && run.cluster.now() < lost + 300 * kSecond) {
    run.cluster.RunUntil([&] { return run.cluster.state().load_bytes_done > 0; }, kSecond);
    run.cluster.KillRank(3, "killed by signal 9");
    run.RunFor(10 * kMillisecond);
  }
  EXPECT_EQ(run.cluster.answer(1).finish.error.code(), absl::StatusCode::kUnavailable);
  EXPECT_LE(run.cluster.now() - lost, 60 * kSecond);
}

// A client that asks, reads and asks again never meets a group that was given up for a larger one.
TEST(Outage, ASmallerGroupGrowsOnlyWhenNobodyIsAboutToAsk) {
  Running run;
  run.cluster.KillAgent("b");
  run.Finish();
  ASSERT_EQ(run.layout(), (Layout{1, 2}));
  run.cluster.AddAgent({.id = "b", .slots = 2});
  for (RequestId id = 10; id < 15; ++id) {
    run.RunFor(3 * kSecond);
    ExpectServes(run.cluster, id);
    EXPECT_EQ(run.cluster.state().groups_formed, 2u);
  }
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().groups_formed == 3; }, 20 * kSecond));
  EXPECT_EQ(run.layout(), (Layout{2, 2}));
  ExpectServes(run.cluster, 20);
}

}  // namespace
}  // namespace shoal::core
