// The engine on an accelerator: plans run ahead of what the host has seen, and steps are recorded. Which accelerator,
// its program is linked with: here the emulated one, in tests/gpu that of the CUDA plug-in.
#include <gtest/gtest.h>

#include "tests/rank/accelerator_cluster.h"

namespace shoal::testing {
namespace {

using Cluster = AcceleratorCluster;

TEST(AcceleratorEngineTest, GraphsAndSingleOpsGiveTheSameTokensAlsoAlone) {
  Cluster eager;
  const auto expected = RunAlone(*eager.ranks, Requests(), {.chunk = 10});
  ASSERT_TRUE(expected.ok()) << expected.status();
  EXPECT_EQ(expected->bucketed, 0);
  for (const bool lazy : {true, false}) {
    Cluster recorded(1, 1, lazy);
    const auto got = RunAlone(*recorded.ranks, Requests(), {.chunk = 10, .graphs = true});
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->tokens, expected->tokens);
    EXPECT_GT(got->bucketed, 10);
  }
  for (size_t i = 0; i < Requests().size(); ++i) {
    Cluster alone;
    const auto got = RunAlone(*alone.ranks, {Requests()[i]}, {.graphs = true});
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->tokens[0], expected->tokens[i]) << i;
  }
}

TEST(AcceleratorEngineTest, WhereOpsWarmUpAStepIsEnqueuedOnceBeforeItIsRecorded) {
  ASSERT_TRUE(cuda::TestTable(ops::Numerics::kFast)->warms_up);
  Cluster eager;
  const auto expected = RunAlone(*eager.ranks, Requests(), {.chunk = 10});
  ASSERT_TRUE(expected.ok()) << expected.status();
  Cluster fast(1, 1, true, ops::Numerics::kFast);
  const auto got = RunAlone(*fast.ranks, Requests(), {.chunk = 10, .graphs = true});
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->tokens, expected->tokens) << "no product here is one for a library";
  EXPECT_GT(got->bucketed, 10);
}

TEST(AcceleratorEngineTest, StagesPassActivationsAndTokens) {
  Cluster one;
  const auto expected = RunAlone(*one.ranks, Requests(), {});
  ASSERT_TRUE(expected.ok()) << expected.status();
  Cluster two(1, 2);
  const auto got = RunAlone(*two.ranks, Requests(), {.chunk = 7, .cohorts = 2, .graphs = true});
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->tokens, expected->tokens);
  EXPECT_GT(got->bucketed, 10);
}

TEST(AcceleratorEngineTest, TensorRanksGiveTheSameTokensInAnyChunks) {
  Cluster two(2, 1);
  const auto got = RunAlone(*two.ranks, Requests(), {});
  ASSERT_TRUE(got.ok()) << got.status();
  Cluster again(2, 1, false);
  const auto same = RunAlone(*again.ranks, Requests(), {.chunk = 5});
  ASSERT_TRUE(same.ok()) << same.status();
  EXPECT_EQ(got->tokens, same->tokens);
}

// Tensor ranks that agree have the same checksums, whatever ran between two that were asked for.
TEST(AcceleratorEngineTest, TensorRanksHoldTheSameStates) {
  Cluster cluster(2, 1);
  Engines engines(*cluster.ranks);
  const auto got = RunRequests(engines, cluster.ranks->limits(), Requests(), {.checksum_every = 3});
  ASSERT_TRUE(got.ok()) << got.status();
  engines.Stop();
  const auto sums = engines.checksums();
  ASSERT_EQ(sums[0].size(), static_cast<size_t>(got->plans));
  EXPECT_EQ(sums[0], sums[1]);
  for (size_t i = 0; i < sums[0].size(); ++i) EXPECT_EQ(sums[0][i] != 0, (i + 1) % 3 == 0) << i;
}

TEST(AcceleratorEngineTest, ChecksumsBetweenGraphsAreThoseOfTheirStep) {
  std::vector<std::vector<uint64_t>> sums;
  for (const bool graphs : {false, true}) {
    Cluster cluster;
    Engines engines(*cluster.ranks);
    const auto got = RunRequests(engines, cluster.ranks->limits(), Requests(), {.checksum_every = 3, .graphs = graphs});
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->bucketed > 0, graphs);
    engines.Stop();
    sums.push_back(engines.checksums()[0]);
  }
  EXPECT_EQ(sums[0], sums[1]);
}

}  // namespace
}  // namespace shoal::testing
