#include "tools/cli/device_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

namespace shoal::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class DeviceChoiceTest : public ::testing::Test {
 protected:
  DeviceChoiceTest() { ::setenv("SHOAL_CUDA_PLUGIN", EMULATED_PLUGIN, 1); }
  ~DeviceChoiceTest() override {
    ::unsetenv("SHOAL_CUDA_PLUGIN");
    ::unsetenv("SHOAL_EMULATED_DEVICES");
  }
  absl::StatusOr<DeviceChoice> Choose(const std::string& wanted) { return ChooseDevice(wanted, makers_); }

  const maker::Makers makers_{std::getenv("SHOAL_BINARY"), nullptr};
};

TEST_F(DeviceChoiceTest, OthersAreThemselves) {
  EXPECT_EQ("cpu", Choose("cpu")->device);
  EXPECT_EQ("null", Choose("null")->device);
}

TEST_F(DeviceChoiceTest, AutoTakesCudaWhereItCanBeUsed) {
  const auto choice = Choose("auto");
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ("cuda", choice->device);
  EXPECT_EQ("", choice->note);
  EXPECT_EQ("cuda", Choose("cuda")->device);
}

TEST_F(DeviceChoiceTest, WithoutADeviceAutoIsTheCpuAndSaysWhy) {
  ::setenv("SHOAL_EMULATED_DEVICES", "0", 1);
  const auto choice = Choose("auto");
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ("cpu", choice->device);
  EXPECT_THAT(choice->note, AllOf(StartsWith("--device auto: the CPU. "), HasSubstr("the driver shows none")));
  EXPECT_EQ(std::string::npos, choice->note.find('\n'));
  const absl::Status refused = Choose("cuda").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), AllOf(StartsWith("--device cuda: "), HasSubstr("the driver shows none")));
}

TEST_F(DeviceChoiceTest, APluginThatIsNamedAndMissingIsWorthALine) {
  ::setenv("SHOAL_CUDA_PLUGIN", "/no/such/plugin.so", 1);
  EXPECT_EQ("cpu", Choose("auto")->device);
  EXPECT_THAT(Choose("auto")->note, HasSubstr("/no/such/plugin.so"));
  EXPECT_THAT(std::string(Choose("cuda").status().message()), HasSubstr("/no/such/plugin.so"));
}

}  // namespace
}  // namespace shoal::cli
