#include "worker/device/open.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "kernels/ops/backends.h"

namespace shoal::device {
namespace {

using ::testing::HasSubstr;

TEST(Open, BackendsThatAreCompiledInAreFoundByName) {
  EXPECT_EQ(FindTable("ref").value(), ops::FindOpTable("ref").value());
  EXPECT_EQ(FindTable("tpu").status().code(), absl::StatusCode::kNotFound);
}

TEST(Open, CudaIsThePluginsAndSaysWhatIsMissing) {
  ASSERT_EQ(0, ::setenv("SHOAL_CUDA_PLUGIN", "/no/such/plugin.so", 1));
  for (const absl::Status& status : {FindTable(kCuda).status(), OpenAccelerator(0).status(), CudaPlugin().status()}) {
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("/no/such/plugin.so"));
  }
}

}  // namespace
}  // namespace shoal::device
