// What comes to the core too late, twice, or from strangers.
#include "gtest/gtest.h"
#include "tests/core/requests.h"
#include "tools/sim/virtual_cluster.h"

namespace shoal::core {
namespace {

using sim::TestOptions, sim::VirtualCluster;

// Of an epoch that is over, of agents that nobody knows, of what nobody waits for: none of it counts, all is counted.
TEST(Stale, WhateverItIsIsCountedByItsPlace) {
  CoreOptions options = TestOptions();
  options.tp = 2;
  VirtualCluster cluster(options, {}, 5);
  cluster.AddAgent({.id = "a", .slots = 2});
  ASSERT_TRUE(cluster.RunUntilReady());
  const GenerateRequest r = MakeRequest(1, 10, 100);
  cluster.Submit(r);
  cluster.KillRank(0, "killed by signal 9");
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.state().groups_formed == 2; }));
  const ClusterState before = cluster.state();
  const plan::AgentId agent = before.ranks[0].agent;
  const auto counts = [&](plan::StalePlace place, const Event& event) {
    const uint64_t counted = cluster.state().stale[static_cast<size_t>(place)];
    cluster.Post(event);
    EXPECT_EQ(cluster.state().stale[static_cast<size_t>(place)], counted + 1);
  };
  plan::LoadProgress progress;
  progress.agent = agent;
  for (const uint64_t epoch : {before.epoch, before.epoch - 1}) {
    counts(plan::StalePlace::kReply, JoinAnswered{agent, epoch, absl::NotFoundError("late")});
    counts(plan::StalePlace::kReply, LoadAdvanced{epoch, progress});
    counts(plan::StalePlace::kReply, LoadFailed{agent, epoch, absl::NotFoundError("late")});
    counts(plan::StalePlace::kReply, PreloadAdvanced{epoch, progress, {}});
    counts(plan::StalePlace::kReply, PreloadFailed{agent, epoch, absl::NotFoundError("late")});
  }
  counts(plan::StalePlace::kFrame, RankExited{agent, {0, 4711, before.epoch - 1, "killed by signal 9"}});
  plan::Heartbeat beat;
  beat.agent = "nobody";
  counts(plan::StalePlace::kHeartbeat, HeartbeatReceived{beat});
  beat.agent = agent;
  beat.incarnation = 4711;  // of another process
  counts(plan::StalePlace::kHeartbeat, HeartbeatReceived{beat});
  ASSERT_TRUE(cluster.RunUntilAnswered());
  ExpectAsAlone(cluster, r);
  EXPECT_EQ(cluster.state().groups_formed, 2u);
}

}  // namespace
}  // namespace shoal::core
