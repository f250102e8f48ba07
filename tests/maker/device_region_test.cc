#include "worker/maker/device_region.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "kernels/cuda/emulated/accelerator.h"
#include "kernels/cuda/table.h"
#include "tests/weights/shards.h"
#include "worker/weights/region.h"

namespace shoal::maker {
namespace {

// A model of which a matrix is several pieces, in a type that the backend packs.
testing::TinyModel Model(DType type) {
  testing::TinyModel m;
  m.vocab = 20000;
  m.matrices = type;
  m.embedding = type;
  return m;
}

struct Loaded {
  absl::Status status;
  std::vector<std::byte> region;
};

// LoadShard through a DeviceRegion on an emulated device. `region_offset`: how far from where the memory lies pieces
// are sent.
Loaded LoadOnDevice(const model::Checkpoint& checkpoint, const weights::WeightLayout& layout, int threads, int pieces,
                    cuda::emulated::Pace pace, int64_t region_offset = 0, int fail_launch = 0) {
  const auto accelerator = cuda::MakeEmulatedAccelerator({.table = &cuda::Table(), .pace = pace});
  if (fail_launch > 0) cuda::emulated::FailLaunch(*accelerator, fail_launch);
  const auto size = static_cast<size_t>(layout.region_bytes);
  auto* const memory = static_cast<std::byte*>(accelerator->Allocate(size).value());
  Loaded out;
  {
    const auto region = DeviceRegion::Create(accelerator.get(), memory + region_offset, pieces,
                                             weights::LargestPiece(layout, cuda::Table()))
                            .value();
    std::atomic<bool> loaded{false};
    std::thread loader([&] {
      out.status = weights::LoadShard(checkpoint, layout, cuda::Table(), *region, threads, nullptr, nullptr);
      loaded = true;
    });
    while (!loaded) region->Serve(std::chrono::milliseconds(1)).IgnoreError();
    loader.join();
    if (out.status.ok()) out.status = region->Finish();
  }
  if (out.status.ok()) {
    auto* const pinned = static_cast<std::byte*>(accelerator->AllocatePinned(size).value());
    EXPECT_TRUE(accelerator->CopyOut(pinned, memory, size).ok());
    EXPECT_TRUE(accelerator->Synchronise().ok());
    out.region.assign(pinned, pinned + size);
    accelerator->FreePinned(pinned);
  }
  accelerator->Free(memory);
  return out;
}

// Header and directory, then every tensor; what lies between them is nobody's.
void ExpectSameRegion(const weights::LoadedRank& rank, const std::vector<std::byte>& got) {
  ASSERT_GT(rank.layout.items.size(), 5u);
  const std::byte* const wanted = rank.region->bytes().data();
  EXPECT_EQ(0, std::memcmp(wanted, got.data(), static_cast<size_t>(rank.layout.items[0].offset)));
  for (const weights::WeightLayout::Item& item : rank.layout.items) {
    EXPECT_EQ(0, std::memcmp(wanted + item.offset, got.data() + item.offset, static_cast<size_t>(item.bytes)))
        << item.spec.name << " of " << Info(item.dtype).name << " on rank " << rank.shard.rank;
  }
}

TEST(DeviceRegion, HoldsWhatALoadIntoHostMemoryHolds) {
  for (const DType type : {DType::kBF16, DType::kQ8_0, DType::kQ4_1, DType::kF8E4M3}) {
    const model::ModelFiles files = weights::OpenTiny(Model(type));
    for (const weights::LoadedRank& rank : weights::LoadAll(files.config, *files.checkpoint, cuda::Table(), 2, 1)) {
      const auto pace = rank.shard.rank == 0 ? cuda::emulated::Pace::kEager : cuda::emulated::Pace::kLazy;
      const Loaded got = LoadOnDevice(*files.checkpoint, rank.layout, 3, 4, pace);
      ASSERT_TRUE(got.status.ok()) << got.status;
      ASSERT_NO_FATAL_FAILURE(ExpectSameRegion(rank, got.region));
    }
  }
}

// Of a model whose heads and feed-forward rows three ranks do not share evenly.
model::ModelFiles Uneven(DType type) {
  testing::TinyModel m;
  m.vocab = 333;
  m.matrices = type;
  m.embedding = type;
  return weights::OpenTiny(m);
}

// What is read of norms and of scales of rows.
int64_t BytesOfVectors(const weights::WeightLayout& layout) {
  int64_t bytes = 0;
  for (const weights::WeightLayout::Item& item : layout.items) {
    const bool matrix = item.part == weights::WeightLayout::Part::kTensor && !item.spec.is_vector();
    if (!matrix) bytes += weights::StoredRows(item) * weights::StoredRowBytes(item);
  }
  return bytes;
}

TEST(DeviceRegion, DummiesAreMadeThereToTheBit) {
  for (const DType type :
       {DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kF8E4M3, DType::kI8, DType::kI4}) {
    const model::ModelFiles files = Uneven(type);
    const auto dummy = model::MakeDummyCheckpoint(files.checkpoint, 9);
    for (const int tp : {1, 2, 3}) {
      for (const weights::LoadedRank& rank : weights::LoadAll(files.config, *dummy, cuda::Table(), tp, 1)) {
        const int64_t before = dummy->bytes_read();
        const auto pace = rank.shard.rank == 0 ? cuda::emulated::Pace::kEager : cuda::emulated::Pace::kLazy;
        const Loaded got = LoadOnDevice(*dummy, rank.layout, 2, 2, pace);
        ASSERT_TRUE(got.status.ok()) << got.status;
        ASSERT_NO_FATAL_FAILURE(ExpectSameRegion(rank, got.region));
        EXPECT_EQ(dummy->bytes_read() - before, BytesOfVectors(rank.layout)) << "matrices were made on the host";
      }
    }
  }
}

TEST(DeviceRegion, AFailedDummyEndsTheLoad) {
  const model::ModelFiles files = Uneven(DType::kF8E4M3);
  const auto dummy = model::MakeDummyCheckpoint(files.checkpoint, 9);
  const auto ranks = weights::LoadAll(files.config, *dummy, cuda::Table(), 1, 1);
  for (const auto pace : {cuda::emulated::Pace::kEager, cuda::emulated::Pace::kLazy}) {
    const Loaded got = LoadOnDevice(*dummy, ranks[0].layout, 2, 2, pace, 0, 3);
    EXPECT_TRUE(absl::IsInternal(got.status)) << got.status;
  }
}

TEST(DeviceRegion, OneBufferIsEnough) {
  const model::ModelFiles files = weights::OpenTiny(Model(DType::kQ8_0));
  const auto ranks = weights::LoadAll(files.config, *files.checkpoint, cuda::Table(), 1, 1);
  const Loaded got = LoadOnDevice(*files.checkpoint, ranks[0].layout, 4, 1, cuda::emulated::Pace::kLazy);
  ASSERT_TRUE(got.status.ok()) << got.status;
  const weights::WeightLayout::Item& last = ranks[0].layout.items.back();
  EXPECT_EQ(0, std::memcmp(ranks[0].region->bytes().data() + last.offset, got.region.data() + last.offset,
                           static_cast<size_t>(last.bytes)));
}

TEST(DeviceRegion, AFailedTransferEndsTheLoad) {
  const model::ModelFiles files = weights::OpenTiny(Model(DType::kBF16));
  const auto ranks = weights::LoadAll(files.config, *files.checkpoint, cuda::Table(), 1, 1);
  const Loaded got = LoadOnDevice(*files.checkpoint, ranks[0].layout, 2, 2, cuda::emulated::Pace::kEager,
                                  ranks[0].layout.region_bytes * 4);  // beyond the memory
  EXPECT_FALSE(got.status.ok());
  EXPECT_NE(absl::StatusCode::kCancelled, got.status.code()) << got.status;
}

}  // namespace
}  // namespace shoal::maker
