// The emulated plug-in as the program opens it. What it opens is an accelerator like any other.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "tests/kernels/cuda/accelerator_contract.h"
#include "worker/comm/nccl.h"
#include "worker/comm/nccl_plugin.h"
#include "worker/device/cuda_plugin.h"

namespace shoal::cuda {
namespace {

using ::testing::HasSubstr;

// What `shoal version` prints: its build first, and the devices that it finds through this plug-in.
std::string ShoalVersion() {
  const std::string command = std::string("SHOAL_CUDA_PLUGIN=" EMULATED_PLUGIN " ") + std::getenv("SHOAL_BINARY");
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(::popen((command + " version").c_str(), "r"), ::pclose);
  std::string text;
  std::array<char, 4096> buffer;
  while (const size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe.get())) text.append(buffer.data(), n);
  return text;
}

const ops::CudaPlugin& Plugin() {
  static const ops::CudaPlugin* const plugin = [] {
    const std::string text = ShoalVersion(), line = text.substr(0, text.find('\n'));
    const auto opened = device::OpenCudaPlugin(EMULATED_PLUGIN, line.substr(line.find(' ') + 1));
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? *opened : nullptr;
  }();
  return *plugin;
}

std::unique_ptr<ops::Accelerator> Open(int index) {
  std::unique_ptr<ops::Accelerator> accelerator;
  const absl::Status opened = Plugin().open(index, ops::Numerics::kInvariant, &accelerator);
  EXPECT_TRUE(opened.ok()) << opened;
  return accelerator;
}

INSTANTIATE_TEST_SUITE_P(EmulatedPlugin, AcceleratorContract,
                         ::testing::Values(AcceleratorKind{"opened", [] { return Open(0); }, ACCELERATOR_PEER}),
                         [](const auto& kind) { return kind.param.name; });

class EmulatedPlugin : public ::testing::Test {
 protected:
  void SetUp() override { Clear(); }
  void TearDown() override { Clear(); }
  static void Clear() {
    for (const char* name : {"SHOAL_EMULATED_DEVICES", "SHOAL_EMULATED_MEMORY", "SHOAL_EMULATED_LAZY"})
      ::unsetenv(name);
  }
};

// Ranks on two of its devices, as the program connects them.
TEST_F(EmulatedPlugin, ItsRanksExchangeOverItsNccl) {
  ASSERT_NE(&Plugin(), nullptr);
  const auto nccl = comm::NcclOfPlugin(EMULATED_PLUGIN);
  ASSERT_TRUE(nccl.ok()) << nccl.status();
  const std::array<comm::AbortFlag, 2> abort = {};
  std::array<std::unique_ptr<ops::Accelerator>, 2> devices = {Open(0), Open(1)};
  std::vector<std::unique_ptr<comm::NcclRendezvous>> ranks;
  std::vector<std::string> addresses;
  for (int r = 0; r < 2; ++r) {
    const auto index = static_cast<size_t>(r);
    ranks.push_back(comm::NcclRendezvous::Open({.api = *nccl,
                                                .accelerator = devices[index].get(),
                                                .shape = {.tp = 2, .max_samples = 1},
                                                .rank = r,
                                                .abort = &abort[index]})
                        .value());
    addresses.push_back(ranks.back()->address());
  }
  auto second = std::async(std::launch::async, [&] { return ranks[1]->Connect(addresses, 30 * kSecond); });
  const absl::StatusOr<comm::RankComm> first = ranks[0]->Connect(addresses, 30 * kSecond), other = second.get();
  EXPECT_TRUE(first.ok()) << first.status();
  EXPECT_TRUE(other.ok()) << other.status();
}

TEST_F(EmulatedPlugin, TheProgramFindsItsDevices) {
  EXPECT_THAT(ShoalVersion(), HasSubstr("CUDA 13.0, driver 13.0, 2 devices\n"
                                        "  0  Emulated device  compute capability 9.0  1.0 GiB  GPU-"));
}

TEST_F(EmulatedPlugin, TheEnvironmentSaysHowManyAndHowLarge) {
  ::setenv("SHOAL_EMULATED_DEVICES", "3", 1);
  ::setenv("SHOAL_EMULATED_MEMORY", "4096", 1);
  const auto probe = std::make_unique<ops::CudaProbe>();
  Plugin().probe(probe.get());
  ASSERT_EQ(probe->device_count, 3);
  EXPECT_EQ(probe->devices[2].memory_bytes, 4096u);
  EXPECT_NE(probe->devices[2].uuid[15], probe->devices[1].uuid[15]);
  EXPECT_EQ(Open(2)->Memory().value().total, 4096u);
  std::unique_ptr<ops::Accelerator> none;
  EXPECT_EQ(Plugin().open(3, ops::Numerics::kInvariant, &none).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(none, nullptr);
  ::setenv("SHOAL_EMULATED_DEVICES", "0", 1);
  Plugin().probe(probe.get());
  EXPECT_EQ(probe->state, ops::CudaState::kNoDevice);
}

TEST_F(EmulatedPlugin, ADeviceMayBeLazy) {
  ::setenv("SHOAL_EMULATED_LAZY", "1", 1);
  const auto a = Open(1);
  const Piece memory(*a, Piece::kDevice, 100);
  Piece out(*a, Piece::kPinned, 100);
  ASSERT_TRUE(a->Fill(memory.data(), 1, 100).ok());
  ASSERT_TRUE(a->CopyOut(out.data(), memory.data(), 100).ok());
  EXPECT_TRUE(out.Is(0xff));
  ASSERT_TRUE(a->Synchronise().ok());
  EXPECT_TRUE(out.Is(1));
}

TEST_F(EmulatedPlugin, WhatIsNoNumberIsNamed) {
  ::setenv("SHOAL_EMULATED_MEMORY", "1 GiB", 1);
  const auto probe = std::make_unique<ops::CudaProbe>();
  Plugin().probe(probe.get());
  EXPECT_EQ(probe->state, ops::CudaState::kError);
  EXPECT_THAT(probe->detail, HasSubstr("SHOAL_EMULATED_MEMORY=1 GiB"));
  std::unique_ptr<ops::Accelerator> none;
  EXPECT_EQ(Plugin().open(0, ops::Numerics::kInvariant, &none).code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace shoal::cuda
