#include "coordinator/server/progress.h"

#include <gtest/gtest.h>

#include "tools/sim/virtual_cluster.h"

namespace shoal::server {
namespace {

using core::ClusterState;

ClusterState Working() {
  ClusterState state{};
  state.phase = ClusterState::Phase::kReady;
  state.running = 1;
  state.steps = 7;
  state.answers = 5;
  state.ranks.resize(2);
  return state;
}

TEST(ProgressWatch, NothingToDoIsNoStandstill) {
  ProgressWatch watch;
  ClusterState state = Working();
  EXPECT_TRUE(watch.Moved(state));
  EXPECT_FALSE(watch.Moved(state));
  state.running = 0;
  EXPECT_TRUE(watch.Moved(state));
  EXPECT_TRUE(watch.Moved(state));
  state.canary_runs = true;
  EXPECT_FALSE(watch.Moved(state));
  state.canary_runs = false;
  state.waiting = 1;
  EXPECT_FALSE(watch.Moved(state));
  state.phase = ClusterState::Phase::kLoading;
  EXPECT_TRUE(watch.Moved(state));
}

TEST(ProgressWatch, SentPlansAreNoProgress) {
  ProgressWatch watch;
  ClusterState state = Working();
  watch.Moved(state);
  state.steps += 2;
  EXPECT_FALSE(watch.Moved(state));
  state.answers += 1;
  EXPECT_TRUE(watch.Moved(state));
}

TEST(ProgressWatch, ARankThatGetsOnInsideALongStepIsProgress) {
  ProgressWatch watch;
  ClusterState state = Working();
  watch.Moved(state);
  EXPECT_FALSE(watch.Moved(state));
  state.ranks[1].status.progress += 1;
  EXPECT_TRUE(watch.Moved(state));
  state.ranks[0].status.step += 1;
  EXPECT_TRUE(watch.Moved(state));
  EXPECT_FALSE(watch.Moved(state));
}

// The core's own figures: one step that takes an hour is sent and not answered, then it is.
TEST(ProgressWatch, AnswersAreCountedWhenTheyComeNotWhenPlansGo) {
  core::CoreOptions options = sim::TestOptions();
  options.plan_deadline = 7200 * kSecond;  // else its ranks, which show no progress, would be given up
  sim::VirtualCluster cluster(options, {.step_min = 3600 * kSecond, .step_max = 3600 * kSecond}, 1);
  cluster.AddAgent({.id = "a"});
  ASSERT_TRUE(cluster.RunUntilReady());
  core::GenerateRequest request;
  request.id = 1;
  request.prompt = {1, 2, 3};
  request.max_tokens = 4;
  cluster.Submit(request);
  EXPECT_GT(cluster.state().steps, 0u);
  EXPECT_EQ(cluster.state().answers, 0u);
  ProgressWatch watch;
  watch.Moved(cluster.state());
  cluster.RunUntil(cluster.now() + 60 * kSecond);
  EXPECT_FALSE(watch.Moved(cluster.state()));
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.state().answers > 0; }, 7200 * kSecond));
  EXPECT_TRUE(watch.Moved(cluster.state()));
}

}  // namespace
}  // namespace shoal::server
