// Penalties, masks, biases and log-probabilities from plan to result, on ranks with accelerators: plans run ahead of
// what the host has seen, but for samples that depend on it.
#include "kernels/cuda/emulated/accelerator.h"
#include "tests/rank/accelerator_cluster.h"
#include "tests/rank/sampling_cases.h"

namespace shoal::testing {
namespace {

RunCases On(int tp, int pp, bool lazy) {
  return [=](const std::vector<TestRequest>& requests, const DriverOptions& options) {
    return RunAlone(*AcceleratorCluster(tp, pp, lazy).ranks, requests, options);
  };
}

TEST(AcceleratorSamplingTest, IsTheSameAloneWithGraphsAndInAnyChunks) {
  const std::vector<TestRequest> cases = SamplingCases(12);
  const auto together = On(1, 1, true)(cases, {.chunk = 7});
  ASSERT_TRUE(together.ok()) << together.status();
  ExpectCasesKept(cases, *together);
  ExpectSameAlone(cases, *together, On(1, 1, true));
  for (const bool lazy : {true, false}) {
    for (const int ahead : {1, 3}) {
      const auto graphs = On(1, 1, lazy)(cases, {.chunk = 10, .ahead = ahead, .graphs = true});
      ASSERT_TRUE(graphs.ok()) << graphs.status();
      EXPECT_GT(graphs->bucketed, 3) << "whatever rows want of their samples";
      ExpectSameCases(*together, *graphs);
    }
  }
}

TEST(AcceleratorSamplingTest, IsTheSameOnSeveralStages) {
  const std::vector<TestRequest> cases = SamplingCases(12);
  const auto one = On(1, 1, true)(cases, {});
  ASSERT_TRUE(one.ok()) << one.status();
  const auto two = On(1, 2, true)(cases, {.chunk = 5, .cohorts = 2, .graphs = true});
  ASSERT_TRUE(two.ok()) << two.status();
  ExpectSameCases(*one, *two);
}

TEST(AcceleratorSamplingTest, IsTheSameOnTensorRanksInAnyChunks) {
  const std::vector<TestRequest> cases = SamplingCases(8);
  const auto first = On(2, 1, true)(cases, {});
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = On(2, 1, false)(cases, {.chunk = 4});
  ASSERT_TRUE(second.ok()) << second.status();
  ExpectSameCases(*first, *second);
}

TEST(AcceleratorSamplingTest, IsTheSameBegunAgainAfterEachStep) {
  const std::vector<TestRequest> cases = SamplingCases(9);
  const auto whole = On(1, 1, true)(cases, {});
  ASSERT_TRUE(whole.ok()) << whole.status();
  ExpectSameBegunAgain(cases, *whole, On(1, 1, true), 1);
}

// Also where the device fails while a step waits for the tokens of one before it.
TEST(AcceleratorSamplingTest, AFaultHasOneAnswer) {
  for (int launch = 40; launch < 400; launch += 24) {
    SCOPED_TRACE(launch);
    AcceleratorCluster cluster;
    cuda::emulated::FailLaunch(*cluster.accelerators[0], launch);
    Engines engines(*cluster.ranks);
    EXPECT_FALSE(RunRequests(engines, cluster.ranks->limits(), SamplingCases(10), {.ahead = 3}).ok());
    EXPECT_EQ(engines.Stop()[0].code(), absl::StatusCode::kInternal);
    const std::vector<plan::StepResult> errors = engines.errors();
    ASSERT_EQ(errors.size(), 1u);
    EXPECT_NE(errors[0].error.find("illegal"), std::string::npos) << errors[0].error;
  }
}

}  // namespace
}  // namespace shoal::testing
