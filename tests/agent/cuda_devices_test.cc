#include "worker/agent/cuda_devices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

namespace shoal::agent {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kMemory = int64_t{1} << 30;

// Emulated devices behind `shoal maker`.
class CudaDevicesTest : public ::testing::Test {
 protected:
  CudaDevicesTest() {
    ::setenv("SHOAL_CUDA_PLUGIN", EMULATED_PLUGIN, 1);
    ::setenv("SHOAL_EMULATED_DEVICES", "3", 1);
    ::setenv("SHOAL_EMULATED_MEMORY", std::to_string(kMemory).c_str(), 1);
  }
  const maker::Makers makers_{std::getenv("SHOAL_BINARY"), nullptr};
};

TEST_F(CudaDevicesTest, EachUsableDeviceIsASlot) {
  const auto all = CudaDevices::Find(&makers_, {.slots = 0, .utilization = 0.5});
  ASSERT_TRUE(all.ok()) << all.status();
  ASSERT_EQ(3u, (*all)->slots().size());
  EXPECT_EQ("cuda", (*all)->slots()[2].kind);
  EXPECT_EQ(kMemory / 2, (*all)->slots()[2].memory_bytes);
  EXPECT_EQ(2, (*all)->Index(2));
  EXPECT_EQ("Emulated_device-9.0/driver13000", (*all)->Numerics({0, 2}));
  const auto two = CudaDevices::Find(&makers_, {.slots = 2, .utilization = 0.5});
  ASSERT_TRUE(two.ok()) << two.status();
  EXPECT_EQ(2u, (*two)->slots().size());
}

TEST_F(CudaDevicesTest, DevicesThatCannotBeUsedAreNoSlots) {
  ops::CudaProbe probe = {};
  probe.device_count = 3;
  for (int i = 0; i < 3; ++i) {
    std::snprintf(probe.devices[i].name, sizeof probe.devices[i].name, "Model %d", i);
    probe.devices[i].usable = i == 1 ? 0 : 1;
    probe.devices[i].multiprocessors = 100 + i;
  }
  const CudaDevices devices(&makers_, probe, {});
  ASSERT_EQ(2u, devices.slots().size());
  EXPECT_EQ(2, devices.Index(1));
  EXPECT_EQ(102, devices.slots()[1].threads);
  EXPECT_EQ("Model_0-0.0+Model_2-0.0/driver0", devices.Numerics({1, 0}));
}

TEST_F(CudaDevicesTest, WhatIsMissingIsSaid) {
  const absl::Status few = CudaDevices::Find(&makers_, {.slots = 4, .utilization = 0.9}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(few)) << few;
  EXPECT_THAT(std::string(few.message()),
              AllOf(HasSubstr("4 slots"), HasSubstr("3 can be used"), HasSubstr("Emulated")));
  ::setenv("SHOAL_EMULATED_DEVICES", "0", 1);
  const absl::Status none = CudaDevices::Find(&makers_, {.slots = 0, .utilization = 0.9}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(none)) << none;
  EXPECT_THAT(std::string(none.message()), HasSubstr("the driver shows none"));
}

TEST_F(CudaDevicesTest, AnOfferIsMeasuredOnceAndLeavesAPartUnused) {
  const auto devices = CudaDevices::Find(&makers_, {.slots = 1, .utilization = 0.75});
  ASSERT_TRUE(devices.ok()) << devices.status();
  constexpr int64_t kWorking = 100 << 20, kUnused = kMemory / 4, kReserved = kMemory / 32;
  const auto offer = (*devices)->Offer(0, kWorking, 0);
  ASSERT_TRUE(offer.ok()) << offer.status();
  EXPECT_LE(*offer, kMemory - kWorking - kUnused - kReserved);
  EXPECT_GT(*offer, kMemory - kWorking - kUnused - kReserved - (32 << 20));
  // Now nothing can be started: the answer is the one of before, whatever is held by now.
  ::setenv("SHOAL_CUDA_PLUGIN", "/no/such/plugin.so", 1);
  EXPECT_EQ(*offer, (*devices)->Offer(0, kWorking, 200 << 20).value());
  EXPECT_EQ((*devices)->InUse(0, kWorking, ops::Numerics::kInvariant), kMemory - kUnused - kReserved - *offer);
  EXPECT_EQ((*devices)->InUse(0, kWorking + 1, ops::Numerics::kInvariant), 0) << "nobody has measured that";
  EXPECT_FALSE((*devices)->Offer(0, kWorking + 1, 0).ok());
}

TEST_F(CudaDevicesTest, WhatTheAgentHoldsCountsAsFree) {
  const auto devices = CudaDevices::Find(&makers_, {.slots = 1, .utilization = 1.0});
  ASSERT_TRUE(devices.ok()) << devices.status();
  const int64_t without = (*devices)->Offer(0, 1 << 20, 0).value();
  EXPECT_NEAR(static_cast<double>((*devices)->Offer(0, 2 << 20, 5000000).value()),
              static_cast<double>(without + 5000000 - (1 << 20)), 1 << 16);
}

TEST_F(CudaDevicesTest, WorkingMemoryThatDoesNotFitIsAnErrorWithNumbers) {
  const auto devices = CudaDevices::Find(&makers_, {.slots = 1, .utilization = 0.9});
  ASSERT_TRUE(devices.ok()) << devices.status();
  const absl::Status status = (*devices)->Offer(0, 2 * kMemory, 0).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

TEST_F(CudaDevicesTest, ADeviceThatIsNamedAgainIsShared) {
  const auto devices = CudaDevices::Find(&makers_, {.slots = 4, .utilization = 0.5, .ids = {1, 0, 1, 1}});
  ASSERT_TRUE(devices.ok()) << devices.status();
  ASSERT_EQ(4u, (*devices)->slots().size());
  EXPECT_EQ(1, (*devices)->Index(3));
  EXPECT_EQ(3, (*devices)->Sharers(2));
  EXPECT_EQ(1, (*devices)->Sharers(1));
  EXPECT_EQ(kMemory / 2 / 3, (*devices)->slots()[0].memory_bytes);
  EXPECT_EQ(kMemory / 2, (*devices)->slots()[1].memory_bytes);
  EXPECT_THAT((*devices)->Environment(2, "host-rank2"), ElementsAre("NCCL_HOSTID=host-rank2"));
  EXPECT_THAT((*devices)->Environment(1, "host-rank1"), IsEmpty());
}

TEST_F(CudaDevicesTest, WhatSharersGetTogetherIsThere) {
  const auto alone = CudaDevices::Find(&makers_, {.ids = {0}});
  const auto shared = CudaDevices::Find(&makers_, {.ids = {0, 0, 0, 0}});
  ASSERT_TRUE(shared.ok()) << shared.status();
  constexpr int64_t kWorking = 20 << 20, kBound = kMemory / 32;
  const int64_t all = (*alone)->Offer(0, kWorking, 0).value(), part = (*shared)->Offer(0, kWorking, 0).value();
  // Each has working memory, a reserve and a context of its own.
  EXPECT_LE(4 * part, all - 3 * (kWorking + 2 * kBound));
  EXPECT_GT(4 * part, all - 3 * (kWorking + 2 * kBound) - 8);
  EXPECT_EQ(part, (*shared)->Offer(3, kWorking, 0).value());
}

TEST_F(CudaDevicesTest, DevicesThatAreNamedHaveToBeThere) {
  const absl::Status missing = CudaDevices::Find(&makers_, {.ids = {0, 3}}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(missing)) << missing;
  EXPECT_THAT(std::string(missing.message()), AllOf(HasSubstr("CUDA device 3 is not there"), HasSubstr("Emulated")));
  const absl::Status few = CudaDevices::Find(&makers_, {.slots = 4, .ids = {0, 0}}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(few)) << few;
  EXPECT_THAT(std::string(few.message()), HasSubstr("4 slots, and 2 CUDA devices are named for them: 0,0"));
}

}  // namespace
}  // namespace shoal::agent
