// Groups that come back with fewer ranks when nobody replaces what was lost, and grow again.
#include "absl/strings/str_cat.h"
#include "common/base/rng.h"
#include "gtest/gtest.h"
#include "tests/core/requests.h"
#include "tools/sim/virtual_cluster.h"

namespace shoal::core {
namespace {

using sim::AgentSpec, sim::Answer, sim::TestOptions, sim::VirtualCluster;

using Phase = ClusterState::Phase;

CoreOptions Options(int32_t tp, int32_t pp) {
  CoreOptions o = TestOptions();
  o.tp = tp;
  o.pp = pp;
  o.nnodes = 2;
  o.replace_timeout = 2 * kSecond;
  return o;
}

// Four requests in flight on agents a and b, 2 x 2.
struct Running {
  explicit Running(CoreOptions options = Options(2, 2), const AgentSpec& first = {.id = "a", .slots = 2})
      : cluster(options, {}, 5) {
    cluster.AddAgent(first);
    cluster.AddAgent({.id = "b", .slots = 2});
    EXPECT_TRUE(cluster.RunUntilReady());
    for (int i = 1; i <= 4; ++i) requests.push_back(MakeRequest(i, 10 + i, 150));
    for (const GenerateRequest& r : requests) cluster.Submit(r);
    RunFor(50 * kMillisecond);
  }
  void RunFor(DurationNs time) { cluster.RunUntil(cluster.now() + time); }
  Layout layout() const { return cluster.state().layout; }
  void Shrink() {
    cluster.KillAgent("b");
    ASSERT_TRUE(cluster.RunUntilReady());
  }
  void AddBack() { cluster.AddAgent({.id = "b", .slots = 2, .highest_epoch = cluster.state().epoch}); }
  void Finish() {
    ASSERT_TRUE(cluster.RunUntilAnswered());
    for (const GenerateRequest& r : requests) ExpectAsAlone(cluster, r);
  }
  VirtualCluster cluster;
  std::vector<GenerateRequest> requests;
};

TEST(Reform, WithFewerRanksWhenNobodyComes) {
  Running run;
  run.cluster.KillAgent("b");
  const TimeNs lost = run.cluster.now();
  run.RunFor(1900 * kMillisecond);
  EXPECT_EQ(run.cluster.state().phase, Phase::kWaitingForAgents);
  ASSERT_TRUE(run.cluster.RunUntilReady());
  EXPECT_GE(run.cluster.now() - lost, 2 * kSecond);
  EXPECT_LE(run.cluster.now() - lost, 2100 * kMillisecond);
  const ClusterState state = run.cluster.state();
  EXPECT_EQ(state.layout, (Layout{1, 2}));  // 3 KV heads are cut evenly by no 2 tensor ranks
  EXPECT_EQ(state.asked, (Layout{2, 2}));
  EXPECT_EQ(state.reforms, 1u);
  ASSERT_EQ(state.ranks.size(), 2u);
  for (int32_t r = 0; r < 2; ++r) {
    EXPECT_EQ(state.ranks[r].agent, "a");
    EXPECT_EQ(state.ranks[r].tp_index, 0);
    EXPECT_EQ(state.ranks[r].stage, r);
  }
  EXPECT_TRUE(run.cluster.Logged("no agents for tp 2 x pp 2: the group is formed with tp 1 x pp 2"));
  run.Finish();
  for (const GenerateRequest& r : run.requests) EXPECT_EQ(run.cluster.answer(r.id).finish.stats.reforms, 1);
  const GenerateRequest later = MakeRequest(9, 4, 10);
  run.cluster.Submit(later);
  ASSERT_TRUE(run.cluster.RunUntilAnswered());
  ExpectAsAlone(run.cluster, later);
  EXPECT_EQ(run.cluster.answer(9).finish.stats.reforms, 0);
}

// Caches of the same size under the same numbers: of another layout they hold other heads and layers.
TEST(Reform, NoCacheIsTakenFromAnotherLayout) {
  Running run;
  run.Shrink();
  EXPECT_EQ(run.cluster.state().resumed, 0u);
  run.Finish();
  EXPECT_GT(run.cluster.state().recomputed_tokens, 0u);
}

// The same layout on other machines, all of another kind: from there the text may differ, and clients are told.
TEST(Reform, OtherNumericsAreOne) {
  Running run;
  run.cluster.AddAgent({.id = "c", .slots = 2, .numerics_id = "other numerics"});
  run.cluster.AddAgent({.id = "d", .slots = 2, .numerics_id = "other numerics"});
  run.cluster.KillRank(0, "killed by signal 9");
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().groups_formed == 2; }));
  EXPECT_EQ(run.cluster.state().reforms, 0u);
  run.cluster.KillAgent("b");
  run.cluster.KillAgent("a");
  ASSERT_TRUE(run.cluster.RunUntilReady());
  EXPECT_EQ(run.layout(), (Layout{2, 2}));
  EXPECT_EQ(run.cluster.state().numerics_id, "other numerics");
  EXPECT_EQ(run.cluster.state().reforms, 1u);
  run.Finish();
  for (const GenerateRequest& r : run.requests) EXPECT_EQ(run.cluster.answer(r.id).finish.stats.reforms, 1);
}

TEST(Reform, NotWhenOneComesInTime) {
  Running run;
  run.cluster.KillAgent("b");
  run.RunFor(1900 * kMillisecond);
  run.AddBack();
  ASSERT_TRUE(run.cluster.RunUntilReady());
  run.Finish();
  EXPECT_EQ(run.layout(), (Layout{2, 2}));
  EXPECT_EQ(run.cluster.state().reforms, 0u);
}

TEST(Reform, ASmallerGroupThatLosesARankIsBackAtOnce) {
  Running run;
  run.Shrink();
  run.RunFor(20 * kMillisecond);
  const TimeNs killed = run.cluster.now();
  run.cluster.KillRank(1, "killed by signal 9");
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().groups_formed == 3; }));
  EXPECT_LE(run.cluster.now() - killed, 100 * kMillisecond);
  EXPECT_EQ(run.cluster.state().reforms, 1u);
  EXPECT_EQ(run.cluster.state().resumed, 4u);
  run.Finish();
}

TEST(Reform, GrowsWhenIdle) {
  Running run;
  run.Shrink();
  run.AddBack();
  run.RunFor(20 * kMillisecond);
  EXPECT_EQ(run.layout(), (Layout{1, 2}));  // not under requests
  run.Finish();
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().groups_formed == 3; }));
  EXPECT_EQ(run.layout(), (Layout{2, 2}));
  EXPECT_EQ(run.cluster.state().reforms, 2u);
  const GenerateRequest later = MakeRequest(9, 4, 10);
  run.cluster.Submit(later);
  ASSERT_TRUE(run.cluster.RunUntilAnswered());
  ExpectAsAlone(run.cluster, later);
}

// What watches the ranks is cut as they are.
TEST(Reform, TheCanaryAndChecksumsFollowTheLayout) {
  CoreOptions o = Options(2, 2);
  o.canary_interval = 10 * kSecond;
  o.checksum_interval = 8;
  Running run(o);
  run.Shrink();
  run.Finish();
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().canary_passes > 0; }));
  EXPECT_EQ(run.layout(), (Layout{1, 2}));
  const uint64_t agreed = run.cluster.state().checksums_agreed;
  run.AddBack();
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().groups_formed == 3; }));
  EXPECT_EQ(run.layout(), (Layout{2, 2}));
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().proven; }));
  run.RunFor(10 * kMillisecond);
  const ClusterState state = run.cluster.state();
  EXPECT_GT(state.checksums_agreed, agreed);
  EXPECT_TRUE(state.mismatches.empty());
  EXPECT_EQ(state.canary_failures, 0u);
  ASSERT_EQ(run.cluster.reports().size(), 1u) << "that the group grew is no news of a fault";
  EXPECT_EQ(run.cluster.reports()[0]->culprit.agent, "b");
}

TEST(Reform, GrowsAtTheNextLoss) {
  Running run;
  run.Shrink();
  run.AddBack();
  run.RunFor(10 * kMillisecond);
  run.cluster.KillRank(0, "killed by signal 9");
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().groups_formed == 3; }));
  EXPECT_EQ(run.layout(), (Layout{2, 2}));
  run.Finish();
  for (const GenerateRequest& r : run.requests) EXPECT_EQ(run.cluster.answer(r.id).finish.stats.reforms, 2);
}

TEST(Reform, AGrowthThatFailsIsTakenBack) {
  Running run;
  run.Shrink();
  run.Finish();
  run.cluster.AddAgent({.id = "bad", .slots = 2, .join_error = absl::NotFoundError("no such file")});
  ASSERT_TRUE(run.cluster.RunUntil([&] { return run.cluster.state().groups_formed == 3; }, 10 * kSecond));
  EXPECT_EQ(run.layout(), (Layout{1, 2}));
  const uint64_t epoch = run.cluster.state().epoch;
  run.RunFor(60 * kSecond);
  EXPECT_EQ(run.cluster.state().epoch, epoch);  // and is not tried for ever
  run.cluster.KillAgent("bad");
  run.AddBack();
  ASSERT_TRUE(run.cluster.RunUntil([&] {
    return run.cluster.state().layout == Layout{2, 2} && run.cluster.state().phase == Phase::kReady;
  }));
}

TEST(Reform, RequestsThatNoLongerFitEndWithAClearError) {
  // Half of the model and 41 blocks of 4 tokens. A quarter of the model leaves room for all.
  Running run(Options(2, 2), {.id = "a", .slots = 2, .memory_bytes = 2000 + 41 * 15, .kv_bytes_per_block = 15});
  const GenerateRequest is_long = MakeRequest(7, 100, 65);
  run.cluster.Submit(is_long);
  run.Shrink();
  EXPECT_EQ(run.cluster.state().max_model_len, 164);
  const Answer& a = run.cluster.answer(7);
  EXPECT_EQ(a.finish.error.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(a.finish.error.message().find("room for 164 tokens"), std::string::npos) << a.finish.error;
  run.Finish();
}

// What was asked for binds the group that was asked for; a smaller one has what there is.
TEST(Reform, ASmallerGroupMayHaveASmallerCache) {
  CoreOptions o = Options(2, 2);
  o.max_model_len = 200;
  o.kv_blocks = 50;
  Running run(o, {.id = "a", .slots = 2, .memory_bytes = 2024 + 49 * 1024});
  run.Shrink();
  EXPECT_EQ(run.cluster.state().kv_blocks, 49);
  EXPECT_EQ(run.cluster.state().max_model_len, 196);
  run.Finish();
}

TEST(Reform, NothingFits) {
  Running none(Options(2, 2), {.id = "a", .slots = 2, .memory_bytes = 1960, .kv_bytes_per_block = 15});
  none.cluster.KillAgent("b");
  ASSERT_TRUE(none.cluster.RunUntilAnswered());
  for (const GenerateRequest& r : none.requests) {
    const absl::Status& error = none.cluster.answer(r.id).finish.error;
    EXPECT_EQ(error.code(), absl::StatusCode::kUnavailable);
    EXPECT_NE(error.message().find("no layout up to tp 2 x pp 2 fits"), std::string::npos) << error;
  }
  EXPECT_EQ(none.cluster.state().phase, Phase::kWaitingForAgents);
  none.AddBack();
  EXPECT_TRUE(none.cluster.RunUntilReady());
}

TEST(Reform, TimeToReformIsTimeToLive) {
  CoreOptions o = Options(2, 2);
  o.replace_timeout = 30 * kSecond;  // as long as requests wait for a group
  Running run(o);
  run.Shrink();
  run.Finish();
}

TEST(Reform, NeverBeforeTheFirstGroupNorWithoutATimeout) {
  VirtualCluster first(Options(2, 2), {}, 1);
  first.AddAgent({.id = "a", .slots = 2});
  first.RunUntil(60 * kSecond);
  EXPECT_EQ(first.state().phase, Phase::kWaitingForAgents);
  EXPECT_TRUE(first.joins().empty());
  CoreOptions o = Options(2, 2);
  o.replace_timeout = 0;
  Running run(o);
  run.cluster.KillAgent("b");
  run.RunFor(120 * kSecond);
  EXPECT_EQ(run.cluster.state().phase, Phase::kWaitingForAgents);
}

}  // namespace
}  // namespace shoal::core
