// What fails on an accelerator, here an emulated one that is told to, is told with its step.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

#include "kernels/cuda/emulated/accelerator.h"
#include "tests/rank/accelerator_cluster.h"

namespace shoal::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// What a group of one says that it ended with, after its only rank's device has failed.
std::string Told(AcceleratorCluster& cluster, Engines& engines, const DriverOptions& options = {}) {
  EXPECT_FALSE(RunRequests(engines, cluster.ranks->limits(), Requests(), options).ok());
  const std::vector<absl::Status> ended = engines.Stop();
  EXPECT_EQ(ended[0].code(), absl::StatusCode::kInternal) << ended[0];
  std::string text(ended[0].message());
  std::vector<std::string> errors;
  for (const plan::StepResult& result : engines.errors()) errors.push_back(result.error);
  EXPECT_THAT(errors, ::testing::ElementsAre(HasSubstr(text)));
  EXPECT_EQ(1u, cluster.ranks->rank(0).page->device_failed);
  return text;
}

TEST(AcceleratorFaultTest, AFaultIsToldWithStepsSequencesAndWhatTheyHaveEnqueued) {
  AcceleratorCluster cluster;
  cuda::emulated::FailLaunch(*cluster.accelerators[0], 100);
  Engines engines(*cluster.ranks);
  EXPECT_THAT(Told(cluster, engines),
              AllOf(HasSubstr("illegal"), HasSubstr("(step "), HasSubstr("sequences 1, 2"),
                    HasSubstr("; one of: waiting for sampled tokens, embedding, attention norm"),
                    HasSubstr("sampling, posting tokens)")));
}

TEST(AcceleratorFaultTest, OfARecordedStepItIsToldWhatWasRecorded) {
  AcceleratorCluster cluster;
  Engines engines(*cluster.ranks);
  cuda::emulated::FailLaunch(*cluster.accelerators[0], 400);  // prompts are not recorded
  EXPECT_THAT(Told(cluster, engines, {.graphs = true}),
              AllOf(HasSubstr("; one of: "), HasSubstr("attention norm"), HasSubstr("launching a recorded step")));
}

// As the emulated device names the kernel, which a real one does not.
TEST(AcceleratorFaultTest, AStepThatIsCheckedNamesTheOperation) {
  const std::map<std::string, std::string> kOperationOf = {
      {"rms_norm", "norm"}, {"rope_kv", "rope and cache write"}, {"glu", "activation"}, {"embed", "embedding"}};
  std::set<std::string> operations;
  int compared = 0;
  for (int launch = 20; launch < 60; ++launch) {
    AcceleratorCluster cluster;
    cuda::emulated::FailLaunch(*cluster.accelerators[0], launch);
    Engines engines(*cluster.ranks, 1000);
    const std::string told = Told(cluster, engines, {.graphs = true});
    EXPECT_THAT(told, AllOf(HasSubstr("(step "), HasSubstr("; in "), Not(HasSubstr("one of"))));
    const std::string kernel = told.substr(0, told.find(':'));
    const size_t at = told.find("; in ");
    const std::string operation = told.substr(at + 5, told.size() - at - 6);
    operations.insert(operation);
    const auto expected = kOperationOf.find(kernel);
    if (expected == kOperationOf.end()) continue;
    EXPECT_THAT(operation, HasSubstr(expected->second)) << told;
    ++compared;
  }
  EXPECT_GE(operations.size(), 8u);
  EXPECT_GE(compared, 8);
}

TEST(AcceleratorFaultTest, CheckedStepsGiveTheSameTokens) {
  // What is staged through the host is not recorded.
  for (const auto& [ranks, graphs] : {std::pair(1, true), std::pair(2, false)}) {
    const DriverOptions options = {.graphs = graphs};
    AcceleratorCluster plain(ranks, ranks), checked(ranks, ranks);
    const auto expected = RunAlone(*plain.ranks, Requests(), options);
    ASSERT_TRUE(expected.ok()) << expected.status();
    Engines engines(*checked.ranks, 7);  // the rest is not checked
    const auto got = RunRequests(engines, checked.ranks->limits(), Requests(), options);
    ASSERT_TRUE(got.ok()) << got.status();
    for (const absl::Status& ended : engines.Stop()) EXPECT_TRUE(ended.ok()) << ended;
    EXPECT_GT(got->plans, 14);
    EXPECT_EQ(got->bucketed > 7, graphs);
    EXPECT_EQ(expected->tokens, got->tokens);
  }
}

TEST(AcceleratorFaultTest, AFaultMayBeProvoked) {
  AcceleratorCluster cluster;
  Engines engines(*cluster.ranks, 1000);
  engines.ProvokeFault(0);
  EXPECT_THAT(Told(cluster, engines), AllOf(HasSubstr("illegal memory access"), HasSubstr("; in copying blocks")));
}

}  // namespace
}  // namespace shoal::testing
