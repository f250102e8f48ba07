#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/ops/backends.h"
#include "worker/device/device.h"

namespace shoal::device {
namespace {

std::unique_ptr<Device> Host(int threads = 1) { return MakeHostDevice(ops::FindOpTable("ref").value(), threads); }

TEST(HostDevice, HasTheTableAndTheThreads) {
  const auto device = Host(2);
  EXPECT_TRUE(device->is_host());
  EXPECT_EQ(device->table().name, "ref");
  EXPECT_EQ(device->stream().threads(), 2);
}

TEST(HostDevice, MemoryIsAlignedAndMoves) {
  const auto device = Host();
  for (const size_t bytes : {size_t{1}, size_t{256}, size_t{1000}}) {
    auto memory = device->Allocate(bytes);
    ASSERT_TRUE(memory.ok());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory->data()) % 256, 0u);
    EXPECT_EQ(memory->size(), bytes);
    std::memset(memory->data(), 7, bytes);
    const std::byte* const at = memory->data();
    const Memory moved = std::move(*memory);
    EXPECT_EQ(moved.data(), at);
    EXPECT_EQ(moved.data()[bytes - 1], std::byte{7});
  }
}

TEST(HostDevice, SaysWhatThereIsNoMemoryFor) {
  const auto memory = Host()->Allocate(size_t{1} << 60);
  EXPECT_TRUE(absl::IsResourceExhausted(memory.status())) << memory.status();
}

TEST(UploadBuffer, TakesAnyNumberAndKeepsTheNewest) {
  const auto device = Host();
  UploadBuffer buffer(device.get());
  for (const int count : {3, 1000, 0, 20}) {
    std::vector<int32_t> values(count);
    std::iota(values.begin(), values.end(), count);
    const auto put = buffer.Put(std::span<const int32_t>(values));
    ASSERT_TRUE(put.ok());
    const std::vector<int32_t> copy = values;
    std::fill(values.begin(), values.end(), -1);  // what was put is no longer the caller's
    EXPECT_TRUE(std::equal(copy.begin(), copy.end(), *put));
  }
}

}  // namespace
}  // namespace shoal::device
