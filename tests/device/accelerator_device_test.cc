// A device over an accelerator (here: emulated, which takes note of host memory that is used again too early).
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/cuda/emulated/accelerator.h"
#include "kernels/cuda/table.h"
#include "worker/device/device.h"

namespace shoal::device {
namespace {

constexpr size_t kRing = 4 << 10;

std::unique_ptr<Device> Make(size_t memory_bytes = size_t{64} << 20) {
  return MakeAcceleratorDevice(
             cuda::MakeEmulatedAccelerator(
                 {.table = &cuda::Table(), .memory_bytes = memory_bytes, .pace = cuda::emulated::Pace::kLazy}),
             kRing)
      .value();
}

std::vector<int32_t> Numbers(size_t count, int first) {
  std::vector<int32_t> values(count);
  std::iota(values.begin(), values.end(), first);
  return values;
}

TEST(AcceleratorDevice, CopiesOfAnySizeArriveInOrder) {
  const auto device = Make();
  EXPECT_FALSE(device->is_host());
  auto memory = device->Allocate(1 << 20);
  ASSERT_TRUE(memory.ok());
  std::vector<int32_t> expected((1 << 20) / sizeof(int32_t), -1);
  // Sizes around those of the ring and its halves; what was copied is changed at once.
  size_t at = 0;
  int first = 0;
  for (const size_t count : {1u, 3u, 511u, 512u, 513u, 1023u, 1024u, 1025u, 5000u, 7u, 700u, 300u, 900u, 64u, 65u}) {
    for (int again = 0; again < 5; ++again) {
      std::vector<int32_t> values = Numbers(count, first += 10000);
      std::copy(values.begin(), values.end(), expected.begin() + at);
      ASSERT_TRUE(device->Upload(memory->as<int32_t>() + at, values.data(), count * sizeof(int32_t)).ok());
      std::fill(values.begin(), values.end(), -7);
      at += count;
    }
  }
  std::vector<int32_t> back(at);
  ASSERT_TRUE(device->Download(back.data(), memory->data(), at * sizeof(int32_t)).ok());
  expected.resize(at);
  EXPECT_EQ(back, expected);
}

TEST(AcceleratorDevice, WhatIsFetchedIsThereOnceItsMarkIsReached) {
  const auto device = Make();
  auto memory = device->Allocate(64);
  auto host = device->AllocateHost(128);
  ASSERT_TRUE(memory.ok() && host.ok());
  const std::vector<int32_t> values = Numbers(16, 5), later = Numbers(16, 50);
  ASSERT_TRUE(device->Upload(memory->data(), values.data(), 64).ok());
  ASSERT_TRUE(device->Fetch(host->data(), memory->data(), 64).ok());
  const auto mark = device->Mark();
  ASSERT_TRUE(mark.ok());
  ASSERT_TRUE(device->Upload(memory->data(), later.data(), 64).ok());
  ASSERT_TRUE(device->Fetch(host->data() + 64, memory->data(), 64).ok());
  const auto second = device->Mark();
  ASSERT_TRUE(second.ok());
  while (!device->Reached(*mark).value()) {
  }
  EXPECT_EQ(std::memcmp(host->data(), values.data(), 64), 0);
  while (!device->Reached(*second).value()) {
  }
  EXPECT_EQ(std::memcmp(host->data() + 64, later.data(), 64), 0);
}

TEST(AcceleratorDevice, AMilestoneIsProgressOnceItIsPassed) {
  const auto device = Make();
  std::atomic<uint64_t> progress{0};
  device->stream().progress = &progress;
  ASSERT_TRUE(device->Milestone().ok());
  ASSERT_TRUE(device->Milestone().ok());
  const auto mark = device->Mark();
  while (!device->Reached(*mark).value()) {
  }
  EXPECT_EQ(progress.load(), 2u);
  device->stream().progress = nullptr;
}

TEST(AcceleratorDevice, ARecordedGraphReadsWhatMemoryThenHolds) {
  const auto device = Make();
  auto memory = device->Allocate(4096);
  ASSERT_TRUE(memory.ok());
  auto* const sources = memory->as<int32_t>();
  int32_t* const ids = sources + 256;
  const std::vector<int32_t> none(4, 0);
  ASSERT_TRUE(device->Upload(ids, none.data(), 16).ok());
  auto graph = device->Record([&] { return device->table().gather_ids(device->stream(), {sources, ids, ids, 4}); });
  ASSERT_TRUE(graph.ok()) << graph.status();
  std::vector<int32_t> back(4);
  ASSERT_TRUE(device->Download(back.data(), ids, 16).ok());
  EXPECT_EQ(back, none) << "recording runs nothing";
  for (const int first : {3, 30}) {
    const std::vector<int32_t> values = Numbers(4, first);
    ASSERT_TRUE(device->Upload(sources, values.data(), 16).ok());
    ASSERT_TRUE(device->Launch(**graph).ok());
    ASSERT_TRUE(device->Download(back.data(), ids, 16).ok());
    EXPECT_EQ(back, values);
  }
}

TEST(AcceleratorDevice, ARecordingThatFailsLeavesTheDeviceUsable) {
  const auto device = Make();
  const auto graph = device->Record([] { return absl::InvalidArgumentError("no such op"); });
  EXPECT_EQ(graph.status().code(), absl::StatusCode::kInvalidArgument);
  auto memory = device->Allocate(16);
  ASSERT_TRUE(memory.ok());
  EXPECT_TRUE(device->Upload(memory->data(), "0123456789abcde", 16).ok());
}

TEST(AcceleratorDevice, SaysWhatThereIsNoMemoryFor) {
  const auto device = Make(size_t{1} << 20);
  auto half = device->Allocate(600 << 10);
  EXPECT_TRUE(half.ok());
  EXPECT_TRUE(absl::IsResourceExhausted(device->Allocate(600 << 10).status()));
  *half = Memory();
  EXPECT_TRUE(device->Allocate(600 << 10).ok());
}

TEST(AcceleratorDevice, AnUploadBufferMayGrowWhileItsOldValuesAreRead) {
  const auto device = Make();
  auto memory = device->Allocate(1 << 16);
  ASSERT_TRUE(memory.ok());
  UploadBuffer buffer(device.get());
  size_t at = 0;
  std::vector<int32_t> expected;
  for (const size_t count : {2u, 100u, 1000u, 5u, 4000u}) {
    const std::vector<int32_t> values = Numbers(count, static_cast<int>(at) * 3);
    const auto put = buffer.Put(std::span<const int32_t>(values));
    ASSERT_TRUE(put.ok());
    auto* const to = memory->as<int32_t>() + at;
    ASSERT_TRUE(device->table().gather_ids(device->stream(), {*put, to, to, static_cast<int>(count)}).ok());
    expected.insert(expected.end(), values.begin(), values.end());
    at += count;
  }
  std::vector<int32_t> back(at);
  ASSERT_TRUE(device->Download(back.data(), memory->data(), at * sizeof(int32_t)).ok());
  EXPECT_EQ(back, expected);
}

}  // namespace
}  // namespace shoal::device
