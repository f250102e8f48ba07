#include "worker/device/cuda_plugin.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <utility>

namespace shoal::device {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// What the error says of a file that must not be accepted.
void ExpectRefused(const std::string& path, absl::StatusCode code, const ::testing::Matcher<std::string>& says) {
  const absl::Status status = OpenCudaPlugin(path, "fake-build").status();
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(path), says));
}

ops::CudaProbe ProbeOf(ops::CudaState state, int driver) {
  ops::CudaProbe probe = {};
  probe.state = state;
  probe.runtime_version = 13000;
  probe.driver_version = driver;
  probe.driver_needed = 13000;
  return probe;
}

TEST(CudaPlugin, AMissingFileIsNamedWithWhatBuildsIt) {
  ExpectRefused(::testing::TempDir() + "none/libshoal_cuda.so", absl::StatusCode::kNotFound, HasSubstr("make cuda"));
}

TEST(CudaPlugin, AFileThatIsNoLibraryIsRefused) {
  const std::string path = ::testing::TempDir() + "not_a_library.so";
  std::ofstream(path) << "text";
  ExpectRefused(path, absl::StatusCode::kInvalidArgument, HasSubstr("cannot be loaded"));
}

TEST(CudaPlugin, AnotherLibraryIsRefused) {
  ExpectRefused(FAKE_NONE, absl::StatusCode::kInvalidArgument, HasSubstr("no shoal_cuda_plugin()"));
}

TEST(CudaPlugin, AnotherInterfaceIsRefusedBeforeAnythingElseIsRead) {
  ExpectRefused(FAKE_LATER, absl::StatusCode::kFailedPrecondition,
                HasSubstr("interface 999, this program needs " + std::to_string(ops::kCudaPluginAbi)));
}

TEST(CudaPlugin, AnotherBuildIsRefusedWithBothNames) {
  const absl::Status status = OpenCudaPlugin(FAKE_PLUGIN, "own-build").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("of build fake-build"), HasSubstr("of build own-build")));
}

TEST(CudaPlugin, DevicesAreDescribed) {
  const auto plugin = OpenCudaPlugin(FAKE_PLUGIN, "fake-build");
  ASSERT_TRUE(plugin.ok()) << plugin.status();
  ops::CudaProbe probe = {};
  (*plugin)->probe(&probe);
  EXPECT_EQ(DescribeCuda(probe),
            "CUDA 13.0, driver 13.1, 3 devices\n"
            "  0  Fake 0  compute capability 9.0  40.5 GiB  GPU-00010203-0405-0607-0809-0a0b0c0d0e0f\n"
            "  1  Fake 1  compute capability 7.5  40.5 GiB  GPU-10111213-1415-1617-1819-1a1b1c1d1e1f"
            "  not usable: 8.0 or later is needed\n"
            "  2  Fake 2  compute capability 8.9  40.5 GiB  GPU-20212223-2425-2627-2829-2a2b2c2d2e2f"
            "  not usable: a block has 99 KiB of shared memory, 160 are needed");
}

TEST(CudaPlugin, EachReasonSaysWhatHelps) {
  using ops::CudaState;
  EXPECT_THAT(DescribeCuda(ProbeOf(CudaState::kNoDriver, 0)),
              AllOf(StartsWith("CUDA 13.0, no device: "), HasSubstr("driver is missing"), HasSubstr("install it")));
  EXPECT_THAT(DescribeCuda(ProbeOf(CudaState::kDriverTooOld, 12040)),
              AllOf(StartsWith("CUDA 13.0, driver 12.4, no device: "), HasSubstr("one for CUDA 13.0 or later")));
  EXPECT_THAT(DescribeCuda(ProbeOf(CudaState::kNoDevice, 13000)), HasSubstr("CUDA_VISIBLE_DEVICES"));
  EXPECT_THAT(DescribeCuda(ProbeOf(CudaState::kNoneUsable, 13000)),
              AllOf(HasSubstr("compute capability 8.0 or later"), HasSubstr("160 KiB of shared memory")));
  ops::CudaProbe failed = ProbeOf(CudaState::kError, 13000);
  std::strncpy(failed.detail, "cudaGetDeviceCount: system not yet initialized", sizeof failed.detail - 1);
  EXPECT_THAT(DescribeCuda(failed), HasSubstr("system not yet initialized"));
}

TEST(CudaPlugin, IsLookedForInTheEnvironmentThenBesideTheProgram) {
  ASSERT_EQ(::setenv("SHOAL_CUDA_PLUGIN", "/opt/other.so", 1), 0);
  EXPECT_EQ(CudaPluginPath(), "/opt/other.so");
  ASSERT_EQ(::unsetenv("SHOAL_CUDA_PLUGIN"), 0);
  const std::filesystem::path here = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  EXPECT_EQ(CudaPluginPath(), (here / "libshoal_cuda.so").string());
}

// The first line that `shoal version` prints in this environment (`NAME=value ...`), and the rest.
std::pair<std::string, std::string> VersionOutput(const std::string& environment) {
  const std::string command =
      "env -u SHOAL_CUDA_PLUGIN " + environment + " " + std::string(std::getenv("SHOAL_BINARY")) + " version";
  std::unique_ptr<FILE, int (*)(FILE*)> pipe(::popen(command.c_str(), "r"), ::pclose);
  std::string text;
  std::array<char, 4096> buffer;
  while (size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe.get())) text.append(buffer.data(), n);
  const size_t end = text.find('\n');
  return {text.substr(0, end), end == std::string::npos ? "" : text.substr(end + 1)};
}

// On a machine without driver and on one with: it opens, its probe explains itself, and it belongs to the binary beside
// it.
TEST(CudaPlugin, TheRealOneOpensAndExplainsItself) {
  const std::string path = REAL_PLUGIN;
  if (path.empty()) GTEST_SKIP() << "built without CUDA (make cuda)";
  const auto [first, rest] = VersionOutput("");
  ASSERT_THAT(first, StartsWith("shoal "));
  const auto plugin = OpenCudaPlugin(path, first.substr(6));
  ASSERT_TRUE(plugin.ok()) << plugin.status();
  const auto probe = std::make_unique<ops::CudaProbe>();
  (*plugin)->probe(probe.get());
  EXPECT_GE(probe->runtime_version, 13000);
  EXPECT_EQ(probe->driver_needed, probe->runtime_version / 1000 * 1000);
  const bool seen = probe->state == ops::CudaState::kReady || probe->state == ops::CudaState::kNoneUsable;
  EXPECT_EQ(probe->device_count > 0, seen);
  EXPECT_EQ(probe->driver_version == 0, probe->state == ops::CudaState::kNoDriver);
  EXPECT_EQ(rest, DescribeCuda(*probe) + "\n") << "`shoal version` finds it beside itself and says the same";
  std::printf("figure: %s\n", DescribeCuda(*probe).c_str());
}

TEST(CudaPlugin, TheRealOneRefusesAnOldDriver) {
  if (std::string(REAL_PLUGIN).empty()) GTEST_SKIP() << "built without CUDA (make cuda)";
  const auto [first, rest] = VersionOutput("LD_LIBRARY_PATH=" FAKE_DRIVER_FOLDER);
  EXPECT_THAT(rest, AllOf(StartsWith("CUDA 13."), HasSubstr(", driver 12.4, no device: the driver is too old")));
}

}  // namespace
}  // namespace shoal::device
