// Groups that form, break and come back, with requests inside.
#include <algorithm>
#include <functional>

#include "absl/strings/str_cat.h"
#include "common/base/rng.h"
#include "gtest/gtest.h"
#include "tests/core/requests.h"
#include "tools/sim/virtual_cluster.h"

namespace shoal::core {
namespace {

using sim::AgentSpec, sim::Answer, sim::TestOptions, sim::VirtualCluster;

using Phase = ClusterState::Phase;

bool Contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

CoreOptions Options(int32_t tp, int32_t pp, int32_t nnodes) {
  CoreOptions o = TestOptions();
  o.tp = tp;
  o.pp = pp;
  o.nnodes = nnodes;
  return o;
}

TEST(Forming, WaitsForAllAgentsInAnyOrder) {
  VirtualCluster cluster(Options(2, 2, 2), {}, 1);
  EXPECT_EQ(cluster.state().phase, Phase::kWaitingForAgents);
  cluster.Submit(MakeRequest(1, 4, 4));
  EXPECT_EQ(cluster.answer(1).finish.error.code(), absl::StatusCode::kUnavailable);
  cluster.AddAgent({.id = "z", .slots = 2});
  cluster.RunUntil(5 * kSecond);
  EXPECT_EQ(cluster.state().phase, Phase::kWaitingForAgents);
  EXPECT_TRUE(Contains(cluster.state().detail, "waiting for 2 agents with 4 slots; there are 1 with 2 slots"))
      << cluster.state().detail;
  EXPECT_TRUE(cluster.joins().empty());
  cluster.AddAgent({.id = "a", .slots = 2});
  ASSERT_TRUE(cluster.RunUntilReady());
  const ClusterState state = cluster.state();
  EXPECT_EQ(state.epoch, 1u);
  EXPECT_EQ(state.load_bytes_done, 2000);
  ASSERT_EQ(state.ranks.size(), 4u);
  for (int32_t r = 0; r < 4; ++r) {
    EXPECT_EQ(state.ranks[r].agent, r < 2 ? "z" : "a");
    EXPECT_EQ(state.ranks[r].stage, r / 2);
    EXPECT_EQ(state.ranks[r].tp_index, r % 2);
  }
  const GenerateRequest r = MakeRequest(2, 8, 20);
  cluster.Submit(r);
  ASSERT_TRUE(cluster.RunUntilAnswered());
  ExpectAsAlone(cluster, r);
}

TEST(Forming, EpochIsAboveAllThatWereSeen) {
  CoreOptions o = Options(1, 2, 2);
  o.stored_epoch = 4;
  VirtualCluster cluster(o, {}, 1);
  cluster.AddAgent({.id = "a", .highest_epoch = 9});
  cluster.AddAgent({.id = "b", .highest_epoch = 2});
  ASSERT_TRUE(cluster.RunUntilReady());
  EXPECT_EQ(cluster.state().epoch, 10u);
  EXPECT_EQ(cluster.joins()[0].join.comm_token, cluster.joins()[1].join.comm_token);
  EXPECT_EQ(cluster.joins()[0].join.comm_token.size(), 16u);
}

TEST(Forming, AdoptsAgentsThatHoldWeights) {
  for (const char* key : {"r1/files/tp1xpp2/null", "r0/files/tp1xpp2/null", "r1/files/tp2xpp1/null"}) {
    VirtualCluster cluster(Options(1, 2, 2), {}, 1);
    cluster.AddAgent({.id = "a", .held_ranks = {1}, .held_model = key});
    cluster.AddAgent({.id = "b", .held_ranks = {0}, .held_model = key});
    ASSERT_TRUE(cluster.RunUntilReady());
    // Weights of another revision or layout are worth nothing: then it goes by arrival.
    const bool same = std::string(key) == "r1/files/tp1xpp2/null";
    EXPECT_EQ(cluster.state().ranks[0].agent, same ? "b" : "a") << key;
    EXPECT_EQ(cluster.state().ranks[1].agent, same ? "a" : "b") << key;
  }
}

TEST(Forming, WhoHoldsTheWeightsIsWaitedForAMoment) {
  CoreOptions o = Options(1, 1, 1);
  o.adopts = true;
  o.adopt_timeout = kSecond;
  const std::string key = "r1/files/tp1xpp1/null";
  VirtualCluster late(o, {}, 1);
  late.AddAgent({.id = "spare"});
  late.RunUntil(kSecond / 2);
  EXPECT_EQ(late.state().phase, Phase::kWaitingForAgents);
  late.AddAgent({.id = "holder", .held_ranks = {0}, .held_model = key});
  ASSERT_TRUE(late.RunUntilReady());
  EXPECT_EQ(late.state().ranks[0].agent, "holder");
  EXPECT_LT(late.now(), kSecond) << "and no longer than it takes";

  VirtualCluster never(o, {}, 1);
  never.AddAgent({.id = "spare"});
  ASSERT_TRUE(never.RunUntilReady());
  EXPECT_EQ(never.state().ranks[0].agent, "spare");
  EXPECT_GE(never.now(), kSecond);
}

TEST(Forming, ANewCoordinatorWaitsAMomentForWhoHoldsTheOtherWeights) {
  const char* key = "r1/files/tp1xpp2/null";
  for (const bool comes : {true, false}) {
    VirtualCluster cluster(Options(1, 2, 2), {}, 1);
    cluster.AddAgent({.id = "a", .highest_epoch = 4, .held_ranks = {0}, .held_model = key});
    cluster.AddAgent({.id = "spare"});
    cluster.RunUntil(1500 * kMillisecond);
    EXPECT_EQ(cluster.state().phase, Phase::kWaitingForAgents);
    EXPECT_TRUE(Contains(cluster.state().detail, "hold the other weights")) << cluster.state().detail;
    if (comes) cluster.AddAgent({.id = "b", .highest_epoch = 4, .held_ranks = {1}, .held_model = key});
    EXPECT_EQ(cluster.state().phase == Phase::kJoining, comes);
    ASSERT_TRUE(cluster.RunUntilReady());
    EXPECT_LT(cluster.now(), 2100 * kMillisecond);
    EXPECT_EQ(cluster.state().ranks[1].agent, comes ? "b" : "spare");
    EXPECT_EQ(cluster.reads().size(), comes ? 0u : 1u);
  }
}

// A coordinator that knows that it was there before does not take the first agents that come.
TEST(Forming, OneThatKnowsFormerEpochsWaitsToo) {
  CoreOptions o = Options(1, 1, 1);
  o.stored_epoch = 4;
  VirtualCluster cluster(o, {}, 1);
  cluster.AddAgent({.id = "spare"});
  EXPECT_TRUE(cluster.joins().empty());
  cluster.AddAgent({.id = "a", .held_ranks = {0}, .held_model = "r1/files/tp1xpp1/null"});
  ASSERT_EQ(cluster.joins().size(), 1u);
  EXPECT_EQ(cluster.joins()[0].agent, "a");
}

TEST(Forming, TheWaitForHoldersDoesNotEndWhileTheCoordinatorStandsStill) {
  CoreOptions o = Options(1, 1, 1);
  o.stored_epoch = 4;
  VirtualCluster cluster(o, {}, 1);
  cluster.AddAgent({.id = "spare"});
  cluster.Pause(10 * kSecond);
  EXPECT_TRUE(cluster.joins().empty());
  cluster.AddAgent({.id = "a", .held_ranks = {0}, .held_model = "r1/files/tp1xpp1/null"});
  ASSERT_EQ(cluster.joins().size(), 1u);
  EXPECT_EQ(cluster.joins()[0].agent, "a");
}

TEST(Forming, AGroupLostWhileItLoadsComesBackWithItsRanksWhereTheyWere) {
  VirtualCluster cluster(Options(1, 3, 3), {.read_max = 100 * kMillisecond}, 1);
  for (const char* id : {"a", "b", "c", "d"}) cluster.AddAgent({.id = id});
  cluster.RunUntil(20 * kMillisecond);
  ASSERT_EQ(cluster.state().phase, Phase::kLoading);
  cluster.KillAgent("a");
  ASSERT_TRUE(cluster.RunUntilReady());
  EXPECT_EQ(cluster.state().ranks[0].agent, "d");
  EXPECT_EQ(cluster.state().ranks[1].agent, "b");
  EXPECT_EQ(cluster.state().ranks[2].agent, "c");
}

TEST(Forming, OverSharedMemoryAgentsOfOtherHostsAreNotUsed) {
  CoreOptions o = Options(1, 2, 2);
  o.engine.transport = "shm";
  VirtualCluster cluster(o, {}, 1);
  cluster.AddAgent({.id = "a", .boot_id = "here"});
  cluster.AddAgent({.id = "b", .boot_id = "there"});
  cluster.RunUntil(kSecond);
  EXPECT_EQ(cluster.state().phase, Phase::kWaitingForAgents);
  EXPECT_TRUE(Contains(cluster.state().detail, "cannot span hosts")) << cluster.state().detail;
  EXPECT_TRUE(cluster.Logged("another boot id"));
  cluster.AddAgent({.id = "c", .boot_id = "here"});
  ASSERT_TRUE(cluster.RunUntilReady());
  for (const auto& rank : cluster.state().ranks) EXPECT_NE(rank.agent, "b");
  EXPECT_TRUE(cluster.connects().empty());
}

// "auto" is what reaches all agents of the group; "gloo" is gloo, also inside a host.
TEST(Forming, TheTransportReachesAllAgents) {
  for (const char* wanted : {"auto", "gloo"}) {
    for (const char* second : {"here", "there"}) {
      CoreOptions o = Options(2, 2, 2);
      o.engine.transport = wanted;
      VirtualCluster cluster(o, {}, 1);
      cluster.AddAgent({.id = "b", .slots = 2, .boot_id = "here"});
      cluster.AddAgent({.id = "a", .slots = 2, .boot_id = second});
      ASSERT_TRUE(cluster.RunUntilReady()) << cluster.state().detail;
      const bool shared = std::string(wanted) == "auto" && std::string(second) == "here";
      EXPECT_EQ(cluster.state().transport, shared ? "shm" : "gloo");
      for (const SendJoin& join : cluster.joins()) EXPECT_EQ(join.join.engine.transport, cluster.state().transport);
      ASSERT_EQ(cluster.connects().size(), shared ? 0u : 2u);
      for (const SendConnect& sent : cluster.connects()) {
        EXPECT_EQ(sent.connect.epoch, cluster.state().epoch);
        EXPECT_EQ(sent.connect.coordinator, o.incarnation);
        ASSERT_EQ(sent.connect.ranks.size(), 4u);
        for (int32_t r = 0; r < 4; ++r) {
          EXPECT_EQ(sent.connect.ranks[r].rank, r);
          EXPECT_EQ(sent.connect.ranks[r].bytes, absl::StrCat("rank ", r));
        }
      }
      const GenerateRequest r = MakeRequest(2, 8, 20);
      cluster.Submit(r);
      ASSERT_TRUE(cluster.RunUntilAnswered());
      ExpectAsAlone(cluster, r);
    }
  }
}

TEST(Forming, AddressesThatNobodyCouldPublishAreRefused) {
  const auto detail = [](const std::function<void(plan::LoadProgress&)>& spoil, const char* transport = "gloo") {
    CoreOptions o = Options(2, 1, 1);
    o.engine.transport = transport;
    VirtualCluster cluster(o, {}, 1);
    cluster.AddAgent({.id = "a", .slots = 2});
    EXPECT_TRUE(cluster.RunUntil([&] { return cluster.state().phase == Phase::kLoading; }, kSecond));
    plan::LoadProgress progress{"a", 0, 0, false, false, 0, {}, {{0, "x"}, {1, "y"}}};
    spoil(progress);
    cluster.Post(LoadAdvanced{cluster.state().epoch, progress});
    return cluster.state().phase == Phase::kFailed ? cluster.state().detail : "";
  };
  EXPECT_EQ(detail([](auto&) {}), "");
  EXPECT_TRUE(Contains(detail([](auto& p) { p.addresses.pop_back(); }), "addresses of other ranks"));
  EXPECT_TRUE(Contains(detail([](auto& p) { p.addresses[1].rank = 0; }), "addresses of other ranks"));
  EXPECT_TRUE(Contains(detail([](auto& p) { p.addresses[1].rank = 2; }), "addresses of other ranks"));
  EXPECT_TRUE(Contains(detail([](auto& p) { p.done = true; }), "before they could connect"));
  EXPECT_TRUE(Contains(detail([](auto&) {}, "shm"), "nobody needs"));
}

TEST(Forming, AddressesOfAnEpochThatIsOverConnectNobody) {
  CoreOptions o = Options(1, 2, 2);
  o.engine.transport = "gloo";
  VirtualCluster cluster(o, {}, 1);
  cluster.AddAgent({.id = "a"});
  cluster.AddAgent({.id = "b"});
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.state().phase == Phase::kLoading; }, kSecond));
  const uint64_t before = cluster.state().epoch;
  cluster.Post(LoadAdvanced{before, {"a", 0, 0, false, false, 0, {}, {{0, "old"}}}});
  cluster.KillAgent("b");
  cluster.AddAgent({.id = "c"});
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.state().phase == Phase::kLoading; }, 10 * kSecond));
  cluster.Post(LoadAdvanced{before, {"a", 0, 0, false, false, 0, {}, {{0, "old"}}}});
  ASSERT_TRUE(cluster.RunUntilReady());
  ASSERT_FALSE(cluster.connects().empty());
  for (const SendConnect& sent : cluster.connects()) {
    EXPECT_EQ(sent.connect.epoch, cluster.state().epoch);
    EXPECT_EQ(sent.connect.ranks[0].bytes, "rank 0");
  }
}

TEST(Forming, AnotherBuildIsNotUsed) {
  VirtualCluster cluster(Options(1, 1, 1), {}, 1);
  plan::AgentInfo info;
  info.id = "a";
  info.build_id = "older";
  info.slots.resize(1);
  cluster.Post(AgentRegistered{info});
  EXPECT_TRUE(cluster.Logged("of build older, this is b1"));
  EXPECT_TRUE(cluster.joins().empty());
}

TEST(Forming, DifferentNumericsFailWithBoth) {
  VirtualCluster cluster(Options(1, 2, 2), {}, 1);
  cluster.AddAgent({.id = "a", .numerics_id = "avx2"});
  cluster.AddAgent({.id = "b", .numerics_id = "scalar"});
  cluster.RunUntil(kSecond);
  const ClusterState state = cluster.state();
  EXPECT_EQ(state.phase, Phase::kFailed);
  EXPECT_TRUE(Contains(state.detail, "avx2") && Contains(state.detail, "scalar")) << state.detail;
  EXPECT_EQ(cluster.aborts().size(), 2u);
}

TEST(Forming, WhatAnAgentCannotDoFailsWithItsReason) {
  for (bool join : {true, false}) {
    VirtualCluster cluster(Options(1, 1, 1), {}, 1);
    AgentSpec spec{.id = "a"};
    (join ? spec.join_error : spec.load_error) = absl::NotFoundError("no such tensor");
    cluster.AddAgent(spec);
    cluster.RunUntil(kSecond);
    EXPECT_EQ(cluster.state().phase, Phase::kFailed);
    EXPECT_TRUE(Contains(cluster.state().detail, "no such tensor")) << cluster.state().detail;
    // An agent that comes later, say with the file in place, is tried.
    cluster.AddAgent({.id = "b"});
    cluster.KillAgent("a");
    EXPECT_TRUE(cluster.RunUntilReady() || join) << cluster.state().detail;
  }
}

TEST(Forming, GivesUpAfterSomeFirstAttempts) {
  VirtualCluster cluster(Options(1, 1, 1), {}, 1);
  cluster.AddAgent({.id = "a", .join_error = absl::UnavailableError("connection refused")});
  cluster.RunUntil(20 * kSecond);
  EXPECT_EQ(cluster.state().phase, Phase::kFailed);
  EXPECT_EQ(cluster.joins().size(), 5u);
  EXPECT_TRUE(Contains(cluster.state().detail, "connection refused")) << cluster.state().detail;
}

TEST(Forming, ARankKilledWhileItLoadsIsTriedAgain) {
  VirtualCluster cluster(Options(1, 2, 2), {}, 1);
  cluster.AddAgent({.id = "a"});
  cluster.AddAgent({.id = "b"});
  for (int attempt = 1; attempt <= 5; ++attempt) {
    ASSERT_TRUE(cluster.RunUntil([&] { return cluster.state().load_bytes_done > 0; }));
    cluster.KillRank(1, "killed by signal 9");
    ASSERT_TRUE(cluster.RunUntil([&] { return cluster.state().phase != Phase::kLoading; }));
    EXPECT_EQ(cluster.state().phase == Phase::kFailed, attempt == 5);
  }
  EXPECT_TRUE(Contains(cluster.state().detail, "rank 1 killed by signal 9")) << cluster.state().detail;
}

TEST(Forming, AnAgentThatNeverAnswersDoesNotHangIt) {
  CoreOptions o = Options(1, 1, 1);
  VirtualCluster cluster(o, {}, 1);
  plan::AgentInfo info;  // registers, and is never heard again: not even heartbeats would help a hung join
  info.id = "mute";
  info.build_id = o.build_id;
  info.slots.resize(1);
  cluster.Post(AgentRegistered{info});
  EXPECT_EQ(cluster.state().phase, Phase::kJoining);
  for (int i = 1; i <= 70; ++i) {
    cluster.RunUntil(i * kSecond);
    plan::Heartbeat beat;
    beat.agent = "mute";
    cluster.Post(HeartbeatReceived{beat});
  }
  EXPECT_EQ(cluster.aborts().size(), 1u);
  EXPECT_TRUE(Contains(cluster.aborts()[0].reason, "no answer to JoinGroup from agent mute"));
}

TEST(Forming, ImpossibleShapesAndLengthsFailAtOnce) {
  VirtualCluster shape(Options(1, 7, 1), {}, 1);
  EXPECT_EQ(shape.state().phase, Phase::kFailed);
  shape.AddAgent({.id = "a", .slots = 7});
  EXPECT_EQ(shape.state().phase, Phase::kFailed);
  CoreOptions o = Options(1, 1, 1);
  o.max_model_len = 257;
  VirtualCluster length(o, {}, 1);
  EXPECT_EQ(length.state().phase, Phase::kFailed);
  EXPECT_TRUE(Contains(length.state().detail, "257")) << length.state().detail;
}

// Four requests in flight on two agents, 2 x 2.
struct Running {
  explicit Running(CoreOptions o = Options(2, 2, 2)) : cluster(o, {}, 3) {
    cluster.AddAgent({.id = "a", .slots = 2});
    cluster.AddAgent({.id = "b", .slots = 2});
    EXPECT_TRUE(cluster.RunUntilReady());
    for (int i = 1; i <= 4; ++i) requests.push_back(MakeRequest(i, 5 + i, 150));
    for (const GenerateRequest& r : requests) cluster.Submit(r);
    cluster.RunUntil(cluster.now() + 50 * kMillisecond);
    for (const GenerateRequest& r : requests) EXPECT_GE(cluster.answer(r.id).tokens.size(), 5u);
  }
  void Finish() {
    ASSERT_TRUE(cluster.RunUntilAnswered());
    for (const GenerateRequest& r : requests) ExpectAsAlone(cluster, r);
  }
  VirtualCluster cluster;
  std::vector<GenerateRequest> requests;
};

TEST(Recovery, RankKilled) {
  Running run;
  run.cluster.KillRank(3, "killed by signal 9");
  const TimeNs killed = run.cluster.now();
  run.Finish();
  EXPECT_EQ(run.cluster.state().groups_formed, 2u);
  EXPECT_EQ(run.cluster.state().epoch, 2u);
  ASSERT_EQ(run.cluster.aborts().size(), 2u);
  for (const SendAbort& abort : run.cluster.aborts()) EXPECT_EQ(abort.epoch, 2u);
  const auto& plans = run.cluster.plans();
  const auto first = std::find_if(plans.begin(), plans.end(), [](const auto& p) { return p.epoch == 2; });
  ASSERT_NE(first, plans.end());
  EXPECT_EQ(first->step, 1u);
  EXPECT_LT(first->sent - killed, 20 * kMillisecond);
  // Nothing is computed again but steps that had not been answered.
  EXPECT_EQ(run.cluster.state().resumed, 4u);
  EXPECT_EQ(run.cluster.state().recomputed_tokens, 0u);
  EXPECT_LE(first->tokens, 4);
  // The log says who, where, how, and how long it took.
  EXPECT_TRUE(run.cluster.Logged("rank 3 on host-boot (pid 4711) killed by signal 9"));
  EXPECT_TRUE(run.cluster.Logged(" ms after the loss, with the KV cache as it was"));
}

TEST(Recovery, RankKilledWhileLongPromptsAreComputed) {
  for (int after_ms = 1; after_ms <= 40; after_ms += 3) {
    SCOPED_TRACE(after_ms);
    CoreOptions o = Options(2, 2, 1);
    o.max_num_batched_tokens = 16;
    VirtualCluster cluster(o, {}, 3);
    cluster.AddAgent({.id = "a", .slots = 4});
    ASSERT_TRUE(cluster.RunUntilReady());
    const std::vector<GenerateRequest> requests = {MakeRequest(1, 100, 5), MakeRequest(2, 90, 5),
                                                   MakeRequest(3, 3, 30)};
    for (const GenerateRequest& r : requests) cluster.Submit(r);
    cluster.RunUntil(cluster.now() + after_ms * kMillisecond);
    const bool answered = cluster.state().answers > 0;
    cluster.KillRank(0, "killed by signal 9");
    ASSERT_TRUE(cluster.RunUntilAnswered());
    for (const GenerateRequest& r : requests) ExpectAsAlone(cluster, r);
    EXPECT_EQ(cluster.state().recomputed_tokens, 0u);
    EXPECT_TRUE(!answered || cluster.state().resumed > 0 || after_ms < 10);
  }
}

TEST(Recovery, RankKilledWhileTheCacheIsShort) {
  CoreOptions o = Options(2, 1, 1);
  o.kv_blocks = 24;
  o.max_model_len = 80;
  VirtualCluster cluster(o, {}, 3);
  cluster.AddAgent({.id = "a", .slots = 2});
  ASSERT_TRUE(cluster.RunUntilReady());
  std::vector<GenerateRequest> requests;
  for (int i = 1; i <= 6; ++i) requests.push_back(MakeRequest(i, 10 + i, 50));
  for (const GenerateRequest& r : requests) cluster.Submit(r);
  for (int i = 0; i < 20; ++i) {
    cluster.RunUntil(cluster.now() + 15 * kMillisecond);
    ASSERT_TRUE(cluster.RunUntilReady());
    cluster.KillRank(i % 2, "killed by signal 9");
  }
  ASSERT_TRUE(cluster.RunUntilAnswered());
  for (const GenerateRequest& r : requests) ExpectAsAlone(cluster, r);
  EXPECT_GT(cluster.state().preemptions, 0u);
  EXPECT_GT(cluster.state().resumed, 10u);
}

TEST(Recovery, ACacheThatIsNotTheSameIsNotRelyedOn) {
  Running run;
  run.cluster.KillAgent("b");
  run.cluster.AddAgent({.id = "b", .slots = 2});  // started again: its memory is new
  run.Finish();
  EXPECT_EQ(run.cluster.state().resumed, 0u);
  EXPECT_GT(run.cluster.state().recomputed_tokens, 20u);
}

TEST(Recovery, CancelledWhileThereIsNoGroup) {
  Running run;
  run.cluster.KillRank(1, "killed by signal 9");
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().phase != Phase::kReady; }));
  run.cluster.Cancel(2, CancelCause::kDisconnect);
  ASSERT_TRUE(run.cluster.RunUntilAnswered());
  EXPECT_EQ(run.cluster.answer(2).finish.reason, FinishReason::kCancelled);
  for (RequestId id : {1, 3, 4}) ExpectAsAlone(run.cluster, run.requests[id - 1]);
  EXPECT_EQ(run.cluster.state().resumed, 3u);
  EXPECT_EQ(run.cluster.state().kv_blocks, run.cluster.state().kv_blocks_free);
}

TEST(Recovery, RankKilledManyTimesIsNotTheRequestsFault) {
  Running run;
  for (int i = 0; i < 6; ++i) {
    run.cluster.KillRank(i % 4, "killed by signal 9");
    run.cluster.RunUntil(run.cluster.now() + 2 * kMillisecond);  // no token comes in between
    ASSERT_TRUE(run.cluster.RunUntilReady());
  }
  run.Finish();
  EXPECT_EQ(run.cluster.state().groups_formed, 7u);
}

TEST(Recovery, StepsThatAlwaysKillEndTheirRequestsOneByOne) {
  Running run;
  for (int i = 0; i < 2 + 4; ++i) {  // twice together, then each alone
    ASSERT_TRUE(run.cluster.RunUntilReady());
    int ended = 0;
    for (const GenerateRequest& r : run.requests) ended += run.cluster.answer(r.id).finishes;
    EXPECT_EQ(ended, std::max(0, i - 2));
    run.cluster.KillRank(1, "killed by signal 11");
    run.cluster.RunUntil([&] { return run.cluster.state().phase != Phase::kReady; });
  }
  for (const GenerateRequest& r : run.requests) {
    const Answer& a = run.cluster.answer(r.id);
    ASSERT_EQ(a.finishes, 1);
    EXPECT_EQ(a.finish.error.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(Contains(std::string(a.finish.error.message()), "signal 11")) << a.finish.error;
  }
  const GenerateRequest next = MakeRequest(9, 4, 10);
  run.cluster.Submit(next);  // queues while the group comes back
  ASSERT_TRUE(run.cluster.RunUntilAnswered());
  ExpectAsAlone(run.cluster, next);
}

TEST(Recovery, RefusedPlan) {
  Running run;
  run.cluster.FailStep("the mirrors differ");
  run.Finish();
  EXPECT_EQ(run.cluster.state().groups_formed, 2u);
  EXPECT_TRUE(run.cluster.Logged("rank 0, step"));
}

TEST(Recovery, AgentLostAndBack) {
  Running run;
  run.cluster.KillAgent("b");
  const ClusterState lost = run.cluster.state();
  EXPECT_EQ(lost.phase, Phase::kWaitingForAgents);
  EXPECT_EQ(lost.waiting, 4);
  EXPECT_EQ(lost.running, 0);
  const GenerateRequest late = MakeRequest(9, 4, 10);
  run.cluster.Submit(late);
  run.cluster.RunUntil(run.cluster.now() + 10 * kSecond);
  EXPECT_EQ(run.cluster.answer(9).finishes, 0);
  run.cluster.AddAgent({.id = "b", .slots = 2, .highest_epoch = 1});
  run.Finish();
  ExpectAsAlone(run.cluster, late);
  EXPECT_EQ(run.cluster.state().groups_formed, 2u);
}

TEST(Recovery, AnotherAgentTakesThePlace) {
  Running run;
  run.cluster.AddAgent({.id = "spare", .slots = 2});
  run.cluster.KillAgent("a");
  ASSERT_TRUE(run.cluster.RunUntilReady());
  const ClusterState state = run.cluster.state();
  for (int32_t r = 0; r < 4; ++r) EXPECT_EQ(state.ranks[r].agent, r < 2 ? "spare" : "b");
  run.Finish();
}

TEST(Recovery, NobodyComesBack) {
  Running run;
  run.cluster.KillAgent("b");
  const TimeNs lost = run.cluster.now();
  ASSERT_TRUE(run.cluster.RunUntilAnswered());
  for (const GenerateRequest& r : run.requests) {
    const Answer& a = run.cluster.answer(r.id);
    EXPECT_EQ(a.finishes, 1);
    EXPECT_EQ(a.finish.error.code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(a.finished_at - lost, 30 * kSecond);
    EXPECT_GT(a.finish.retry_after_s, 0);
  }
  run.cluster.Submit(MakeRequest(9, 4, 10));
  EXPECT_EQ(run.cluster.answer(9).finish.error.code(), absl::StatusCode::kUnavailable);
  run.cluster.AddAgent({.id = "c", .slots = 2});
  ASSERT_TRUE(run.cluster.RunUntilReady());
  const GenerateRequest r = MakeRequest(10, 4, 10);
  run.cluster.Submit(r);
  ASSERT_TRUE(run.cluster.RunUntilAnswered());
  ExpectAsAlone(run.cluster, r);
}

TEST(Recovery, ASilentAgentIsLostUntilItIsHeardAgain) {
  Running run;
  run.cluster.FreezeAgent("b");
  const TimeNs frozen = run.cluster.now();
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().phase != Phase::kReady; }));
  EXPECT_GE(run.cluster.now() - frozen, 2500 * kMillisecond);
  EXPECT_LE(run.cluster.now() - frozen, 3500 * kMillisecond);
  run.cluster.RunUntil(run.cluster.now() + 2 * kSecond);
  EXPECT_EQ(run.cluster.state().phase, Phase::kWaitingForAgents);
  run.cluster.ThawAgent("b");
  run.Finish();
  EXPECT_EQ(run.cluster.state().groups_formed, 2u);
}

TEST(Recovery, AShortFreezeIsNoLoss) {
  Running run;
  run.cluster.FreezeAgent("b");
  run.cluster.RunUntil(run.cluster.now() + 2 * kSecond);
  run.cluster.ThawAgent("b");
  run.Finish();
  EXPECT_EQ(run.cluster.state().groups_formed, 1u);
}

TEST(Recovery, OwnPauseIsNotTheAgentsSilence) {
  Running run;
  for (int i = 1; i <= 4; ++i) {
    // This process did not run for a minute: its timer comes late, and heartbeats of that time never arrived.
    const TimeNs awake = run.cluster.now() + 60 * kSecond;
    run.cluster.Pause(awake);
    EXPECT_EQ(run.cluster.state().phase, Phase::kReady);
    run.cluster.RunUntil(awake + kSecond);
  }
  run.Finish();
  EXPECT_EQ(run.cluster.state().groups_formed, 1u);
}

TEST(Recovery, AnswersOfAnEpochThatIsOverAreIgnored) {
  Running run;
  run.cluster.FreezeAgent("b");
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().phase != Phase::kReady; }));
  const uint64_t before = run.cluster.state().stale[static_cast<size_t>(plan::StalePlace::kAnswer)];
  run.cluster.ThawAgent("b");  // says all it had to say
  run.cluster.RunUntil(run.cluster.now() + kMillisecond);
  EXPECT_GT(run.cluster.state().stale[static_cast<size_t>(plan::StalePlace::kAnswer)], before);
  run.Finish();
}

// It comes while the next group has the same step under way: taken for that step's, it would break the group.
TEST(Recovery, AnAnswerOfTheEpochBeforeIsNotOneOfTheNext) {
  Running run;
  run.cluster.KillRank(0, "killed by signal 9");
  ASSERT_TRUE(run.cluster.RunUntil([&] {
    const ClusterState state = run.cluster.state();
    return state.epoch == 2 && state.phase == Phase::kReady;
  }));
  const ClusterState state = run.cluster.state();
  plan::StepResult late;
  late.stamp = {1, TestOptions().incarnation, 1};
  late.rank = 2;  // samples
  run.cluster.Post(StepAnswered{state.ranks[late.rank].agent, late});
  EXPECT_EQ(run.cluster.state().stale[static_cast<size_t>(plan::StalePlace::kAnswer)],
            state.stale[static_cast<size_t>(plan::StalePlace::kAnswer)] + 1);
  run.Finish();
  EXPECT_EQ(run.cluster.state().groups_formed, 2u);
}

TEST(Recovery, AnswersThatNoRankWouldGiveBreakTheGroupOnly) {
  for (int kind = 0; kind < 4; ++kind) {
    SCOPED_TRACE(kind);
    Running run;
    plan::StepResult result;
    result.stamp = {run.cluster.state().epoch, TestOptions().incarnation, run.cluster.state().steps};
    result.rank = 2;  // the sampling rank
    if (kind == 0) result.stamp.step += 100;
    if (kind == 1) result.stamp.step -= 1, result.rows.push_back({4711, {1}, plan::RowError::kNone, {}});
    if (kind == 2) result.stamp.step -= 2;
    if (kind == 3) result.rank = 1, result.stamp.step += 1;
    run.cluster.Post(StepAnswered{kind == 3 ? "a" : "b", result});
    run.Finish();
    EXPECT_LE(run.cluster.state().groups_formed, 2u);
  }
}

TEST(Recovery, AgentsThatAreNotOfTheGroupComeAndGo) {
  Running run;
  run.cluster.AddAgent({.id = "c", .slots = 4});
  run.cluster.RunUntil(run.cluster.now() + 5 * kMillisecond);
  run.cluster.KillAgent("c");
  run.cluster.Post(AgentLost{"nobody", "never seen"});
  run.cluster.Post(RankExited{"c", {0, 1, 1, "killed by signal 9"}});
  run.cluster.Post(RankExited{"a", {0, 1, 0, "of an older epoch"}});
  run.Finish();
  EXPECT_EQ(run.cluster.state().groups_formed, 1u);
}

TEST(Recovery, SmallerCacheAfterwardsEndsWhatNoLongerFits) {
  Running run(Options(2, 2, 2));
  run.cluster.KillAgent("b");
  run.cluster.AddAgent({.id = "c", .slots = 2, .memory_bytes = 1000 + 40 * 1024});  // 160 tokens
  ASSERT_TRUE(run.cluster.RunUntilAnswered());
  EXPECT_EQ(run.cluster.state().max_model_len, 160);
  ExpectAsAlone(run.cluster, run.requests[0]);
  ExpectAsAlone(run.cluster, run.requests[3]);
  const GenerateRequest too_long = MakeRequest(9, 11, 150);
  run.cluster.Submit(too_long);
  EXPECT_EQ(run.cluster.answer(9).finish.error.code(), absl::StatusCode::kInvalidArgument);

  Running other(Options(2, 2, 2));
  other.cluster.KillAgent("b");
  other.cluster.AddAgent({.id = "c", .slots = 2, .memory_bytes = 1000 + 39 * 1024});  // 156 tokens: the first only
  ASSERT_TRUE(other.cluster.RunUntilAnswered());
  ExpectAsAlone(other.cluster, other.requests[0]);
  EXPECT_EQ(other.cluster.answer(2).finish.error.code(), absl::StatusCode::kUnavailable);
}

// A join or a load that goes wrong after a group was ready ends nothing: it is tried again while requests wait.
TEST(Recovery, ARefusalAfterAReadyGroupIsTriedAgain) {
  for (bool join : {true, false}) {
    for (const absl::Status& why : {absl::NotFoundError("the file has moved"), absl::AbortedError("a rank ended"),
                                    absl::InternalError("who knows")}) {
      SCOPED_TRACE(absl::StrCat(join, " ", why.message()));
      Running run;
      join ? run.cluster.RefuseJoins("b", why) : run.cluster.RefuseLoads("b", why);
      run.cluster.KillRank(0, "killed by signal 9");
      run.cluster.RunUntil(run.cluster.now() + 10 * kSecond);
      EXPECT_GT(run.cluster.joins().size(), 10u);  // many times, and not as fast as it can
      EXPECT_LT(run.cluster.joins().size(), 30u);
      EXPECT_NE(run.cluster.state().phase, Phase::kFailed);
      EXPECT_TRUE(Contains(run.cluster.state().detail, std::string(why.message()))) << run.cluster.state().detail;
      EXPECT_TRUE(run.cluster.Logged(std::string(why.message())));
      join ? run.cluster.RefuseJoins("b", absl::OkStatus()) : run.cluster.RefuseLoads("b", absl::OkStatus());
      run.Finish();
      EXPECT_EQ(run.cluster.state().groups_formed, 2u);
    }
  }
}

TEST(Recovery, ARefusalThatStaysEndsRequestsAndNotTheServer) {
  Running run;
  run.cluster.RefuseJoins("b", absl::NotFoundError("the file has moved"));
  run.cluster.KillRank(0, "killed by signal 9");
  ASSERT_TRUE(run.cluster.RunUntilAnswered());
  for (const GenerateRequest& r : run.requests) {
    EXPECT_EQ(run.cluster.answer(r.id).finish.error.code(), absl::StatusCode::kUnavailable);
    EXPECT_TRUE(Contains(std::string(run.cluster.answer(r.id).finish.error.message()), "the file has moved"));
  }
  run.cluster.RunUntil(run.cluster.now() + 60 * kSecond);
  EXPECT_NE(run.cluster.state().phase, Phase::kFailed);
  run.cluster.RefuseJoins("b", absl::OkStatus());
  EXPECT_TRUE(run.cluster.RunUntilReady());
}

TEST(Recovery, ASpareThatCannotDoItGivesThePlaceBack) {
  for (int kind = 0; kind < 4; ++kind) {
    SCOPED_TRACE(kind);
    Running run;
    AgentSpec spare{.id = "spare", .slots = 2};
    if (kind == 0) spare.join_error = absl::FailedPreconditionError("another file");
    if (kind == 1) spare.load_error = absl::DataLossError("truncated");
    if (kind == 2) spare.numerics_id = "other numerics";
    if (kind == 3) spare.memory_bytes = 1000;
    run.cluster.AddAgent(spare);
    run.cluster.KillAgent("b");
    run.cluster.RunUntil(run.cluster.now() + 5 * kSecond);
    EXPECT_NE(run.cluster.state().phase, Phase::kFailed);
    if (kind < 3) {
      run.cluster.AddAgent({.id = "new", .slots = 2});
    } else {
      run.cluster.AddAgent({.id = "b", .slots = 2});
    }
    run.Finish();
    for (const auto& rank : run.cluster.state().ranks) EXPECT_NE(rank.agent, "spare");
  }
}

TEST(Recovery, ARankKilledWhileItsAgentLoadsIsTriedAgain) {
  Running run;
  run.cluster.KillRank(3, "killed by signal 9");
  for (int i = 0; i < 6; ++i) {  // more often than a first group would be tried
    ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().phase == Phase::kLoading; }));
    const uint64_t epoch = run.cluster.state().epoch;
    ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().load_bytes_done > 0; }));
    run.cluster.KillRank(3, "killed by signal 9");
    ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().epoch > epoch; }));
    EXPECT_EQ(run.cluster.state().groups_formed, 1u);
  }
  run.Finish();
  EXPECT_TRUE(run.cluster.Logged("could not load its weights: rank 3 killed by signal 9"));
  EXPECT_EQ(run.cluster.state().groups_formed, 2u);
}

// Kills, freezes, refusals and comebacks at random: every answer as alone, once.
void RandomTrouble(uint64_t seed) {
  SCOPED_TRACE(seed);
  uint64_t draws = 0;
  const auto draw = [&](int low, int high) {
    return low + static_cast<int>(RandomBits(seed, 5, ++draws) % static_cast<uint64_t>(high - low + 1));
  };
  CoreOptions o = Options(draw(1, 2), draw(1, 3), 2);
  o.max_model_len = 60;
  o.kv_blocks = 15 + draw(0, 40);
  const int slots = o.tp * o.pp;
  VirtualCluster cluster(o, {}, seed);
  cluster.AddAgent({.id = "a", .slots = slots});
  cluster.AddAgent({.id = "b", .slots = slots});
  ASSERT_TRUE(cluster.RunUntilReady());
  std::vector<GenerateRequest> requests;
  for (int i = 1; i <= 12; ++i) {
    requests.push_back(MakeRequest(i, draw(1, 20), draw(1, 40)));
    cluster.SubmitAt(cluster.now() + draw(0, 300) * kMillisecond, requests.back());
  }
  for (int k = 0; k < 6; ++k) {
    cluster.RunUntil(cluster.now() + draw(0, 60) * kMillisecond);
    const std::string id = draw(0, 1) == 0 ? "a" : "b";
    switch (draw(0, 5)) {
      case 0:
        cluster.KillRank(draw(0, slots - 1), "killed by signal 9");
        break;
      case 1:
        cluster.KillAgent(id);
        cluster.RunUntil(cluster.now() + draw(0, 3000) * kMillisecond);
        cluster.AddAgent({.id = id, .slots = slots, .highest_epoch = cluster.state().epoch});
        break;
      case 2:
        cluster.FreezeAgent(id);
        cluster.RunUntil(cluster.now() + draw(100, 6000) * kMillisecond);
        cluster.ThawAgent(id);
        break;
      case 3:
        cluster.RefuseJoins(id, absl::NotFoundError("no such model"));
        cluster.KillRank(draw(0, slots - 1), "killed by signal 9");
        cluster.RunUntil(cluster.now() + draw(0, 2000) * kMillisecond);
        cluster.RefuseJoins(id, absl::OkStatus());
        break;
      case 4:
        cluster.RefuseLoads(id, absl::InternalError("a rank ended"));
        cluster.KillRank(draw(0, slots - 1), "killed by signal 9");
        cluster.RunUntil(cluster.now() + draw(0, 2000) * kMillisecond);
        cluster.RefuseLoads(id, absl::OkStatus());
        break;
      default:
        cluster.AddAgent({.id = id, .slots = slots, .highest_epoch = cluster.state().epoch});  // again, out of the blue
    }
  }
  ASSERT_TRUE(cluster.RunUntilAnswered()) << cluster.state().detail;
  for (const GenerateRequest& r : requests) ExpectAsAlone(cluster, r);
  EXPECT_LE(cluster.max_unanswered(), 2);
}

TEST(Recovery, AsAloneUnderRandomTrouble) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    RandomTrouble(seed);
    if (HasFatalFailure() || HasNonfatalFailure()) return;
  }
}

}  // namespace
}  // namespace shoal::core
