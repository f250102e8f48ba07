// The engine on an accelerator (here: emulated): plans run ahead of what the host has seen, steps are recorded, and
// what fails on the device is told with its step.
#include <gtest/gtest.h>

#include "common/base/rng.h"
#include "kernels/cuda/emulated/accelerator.h"
#include "kernels/cuda/table.h"
#include "tests/cluster/harness/driver.h"

namespace shoal::testing {
namespace {

using cuda::emulated::Pace;

const TinyModel kTiny = {.layers = 2,
                         .hidden = 64,
                         .heads = 4,
                         .kv_heads = 2,
                         .head_dim = 32,
                         .ffn = 96,
                         .vocab = 288,
                         .matrices = DType::kBF16,
                         .embedding = DType::kBF16};

std::vector<int32_t> Ids(int count, int seed) {
  std::vector<int32_t> ids(count);
  for (int i = 0; i < count; ++i) ids[i] = 3 + static_cast<int32_t>(RandomBits(seed, 1, i) % 280);
  return ids;
}

// Ranks of one group on emulated accelerators of their own.
struct Cluster {
  explicit Cluster(int tp = 1, int pp = 1, Pace pace = Pace::kLazy) {
    static const TestModel model = OpenTinyModel(kTiny).value();
    RankSetOptions options = {.kv = DType::kBF16, .max_tokens = 24, .max_samples = 6, .max_model_len = 100};
    options.device = [this, pace](const ops::OpTable* table) {
      auto accelerator = cuda::MakeEmulatedAccelerator({.table = table, .pace = pace});
      accelerators.push_back(accelerator.get());
      return device::MakeAcceleratorDevice(std::move(accelerator), 8 << 10);
    };
    ranks = RankSet::Make(LoadShards(model, tp, pp, &cuda::Table(), false).value(), options).value();
  }
  std::vector<ops::Accelerator*> accelerators;
  std::unique_ptr<RankSet> ranks;
};

// Greedy and sampled, of lengths that cross block borders; more than run in one decode step at first.
std::vector<TestRequest> Requests() {
  std::vector<TestRequest> requests;
  for (int i = 0; i < 5; ++i) {
    TestRequest& r = requests.emplace_back();
    r.prompt = Ids(3 + 9 * i, i);
    r.new_tokens = 20 - 3 * i;
    r.sampling.temperature = i % 2 == 0 ? 0.0f : 0.9f;
    r.sampling.top_k = i == 3 ? 20 : 0;
    r.sampling.seed = 100 + i;
  }
  return requests;
}

TEST(AcceleratorEngineTest, GraphsAndSingleOpsGiveTheSameTokensAlsoAlone) {
  Cluster eager;
  const auto expected = RunAlone(*eager.ranks, Requests(), {.chunk = 10});
  ASSERT_TRUE(expected.ok()) << expected.status();
  EXPECT_EQ(expected->bucketed, 0);
  for (const Pace pace : {Pace::kLazy, Pace::kEager}) {
    Cluster recorded(1, 1, pace);
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
  Cluster again(2, 1, Pace::kEager);
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

TEST(AcceleratorEngineTest, AFaultOnTheDeviceIsToldWithStepAndSequences) {
  Cluster cluster;
  cuda::emulated::FailLaunch(*cluster.accelerators[0], 100);
  Engines engines(*cluster.ranks);
  const auto result = RunRequests(engines, cluster.ranks->limits(), Requests(), {});
  ASSERT_FALSE(result.ok());
  const std::vector<absl::Status> ended = engines.Stop();
  EXPECT_EQ(ended[0].code(), absl::StatusCode::kInternal);
  const std::string text(ended[0].message());
  EXPECT_NE(text.find("illegal"), std::string::npos) << text;
  EXPECT_NE(text.find("(step "), std::string::npos) << text;
  EXPECT_NE(text.find("sequences 1, 2"), std::string::npos) << text;
  ASSERT_EQ(engines.errors().size(), 1u);
  EXPECT_NE(engines.errors()[0].error.find(text), std::string::npos);
}

}  // namespace
}  // namespace shoal::testing
