// What fails on an accelerator, here an emulated one that is told to, is told with its step.
#include <gtest/gtest.h>

#include "kernels/cuda/emulated/accelerator.h"
#include "tests/rank/accelerator_cluster.h"

namespace shoal::testing {
namespace {

TEST(AcceleratorFaultTest, AFaultOnTheDeviceIsToldWithStepAndSequences) {
  AcceleratorCluster cluster;
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
