#include "tools/cli/version.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace shoal::cli {
namespace {

TEST(Version, NamesTheBuildFirstAndThenWhyThereIsNoCuda) {
  const std::string text = VersionText("0.1.0+abc", "/nowhere/libshoal_cuda.so");
  EXPECT_THAT(text, ::testing::StartsWith("shoal 0.1.0+abc\nno CUDA: there is no CUDA plug-in at /nowhere/"));
  EXPECT_EQ(text.back(), '\n');
}

}  // namespace
}  // namespace shoal::cli
