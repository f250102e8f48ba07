// What a batch looks like in the memory of a device (here: emulated).
#include "worker/graph/staged_batch.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "kernels/cuda/emulated/accelerator.h"
#include "kernels/cuda/table.h"

namespace shoal::graph {
namespace {

constexpr int kBlock = 16, kContext = 16 * 20000;  // tables longer than what one copy takes

class StagedBatchTest : public ::testing::Test {
 protected:
  StagedBatchTest()
      : device_(device::MakeAcceleratorDevice(
                    cuda::MakeEmulatedAccelerator({.table = &cuda::Table(), .pace = cuda::emulated::Pace::kLazy}))
                    .value()),
        staged_(
            StagedBatch::Create(device_.get(), {.options = {.max_tokens = 8, .max_samples = 4, .max_context = kContext},
                                                .rope = {.dim = 8},
                                                .block_size = kBlock,
                                                .q_to_kv = {0, 0},
                                                .kv_heads = 1,
                                                .head_dim = 16})
                .value()) {}

  template <typename T>
  std::vector<T> Read(const T* from, size_t count) {
    std::vector<T> values(count);
    EXPECT_TRUE(device_->Download(values.data(), from, count * sizeof(T)).ok());
    return values;
  }
  // One row of one sequence at `position`.
  absl::Status Stage(const std::vector<int32_t>& table, int position, SequencePlace place, int bucket = 0) {
    const int32_t source = 7, row = 0;
    const int64_t slot = 3;
    const ops::AttentionSequence sequence = {table.data(), 0, 1, position};
    const ops::SampleRow sampling = {.temperature = 0.5f};
    Batch batch;
    batch.tokens = 1;
    batch.sources = {&source, 1};
    batch.positions = {&position, 1};
    batch.slots = {&slot, 1};
    batch.sequences = {&sequence, 1};
    batch.places = {&place, 1};
    batch.sample_rows = {&row, 1};
    batch.sampling = {&sampling, 1};
    batch.bucket = bucket;
    return staged_.Stage(batch);
  }
  std::vector<int32_t> Table(size_t count) {
    const auto sequence = Read(staged_.sequences(), 1)[0];
    return Read(sequence.block_table, count);
  }

  const std::unique_ptr<device::Device> device_;
  StagedBatch staged_;
};

std::vector<int32_t> Blocks(size_t count, int first) {
  std::vector<int32_t> blocks(count);
  std::iota(blocks.begin(), blocks.end(), first);
  return blocks;
}

TEST_F(StagedBatchTest, RowsBehindABucketsOwnArePadding) {
  ASSERT_TRUE(Stage({5}, 9, {2, 1}, 4).ok());
  EXPECT_EQ(staged_.tokens(), 4);
  EXPECT_EQ(staged_.samples(), 4);
  EXPECT_EQ(Read(staged_.sources(), 4), (std::vector<int32_t>{7, 0, 0, 0}));
  EXPECT_EQ(Read(staged_.slots(), 4), (std::vector<int64_t>{3, -1, -1, -1}));
  EXPECT_EQ(Read(staged_.positions(), 4), (std::vector<int32_t>{9, 0, 0, 0}));
  EXPECT_EQ(Read(staged_.sample_rows(), 4), (std::vector<int32_t>{0, 0, 0, 0}));
  EXPECT_EQ(Read(staged_.sampling(), 4)[0].temperature, 0.5f);
  EXPECT_EQ(Read(staged_.sampling(), 4)[0].top_k, 0);
  EXPECT_EQ(Read(staged_.sampling(), 4)[3].top_k, -1);
  const auto sequences = Read(staged_.sequences(), 4);
  EXPECT_EQ(sequences[0].row_count, 1);
  EXPECT_EQ(sequences[0].position, 9);
  EXPECT_EQ(sequences[3].row_count, 0);
}

TEST_F(StagedBatchTest, ABucketsAddressesDoNotDependOnTheBatch) {
  ASSERT_TRUE(Stage({5}, 9, {2, 1}, 4).ok());
  const void* const before[] = {staged_.sources(),   staged_.slots(), staged_.sample_rows(), staged_.sampling(),
                                staged_.sequences(), staged_.plan(),  staged_.positions(),   staged_.angles(false).cos};
  ASSERT_TRUE(Stage(Blocks(300, 1), 16 * 299, {0, 5}).ok());
  ASSERT_TRUE(Stage(Blocks(900, 7), 16 * 899, {3, 9}, 4).ok());
  const void* const after[] = {staged_.sources(),   staged_.slots(), staged_.sample_rows(), staged_.sampling(),
                               staged_.sequences(), staged_.plan(),  staged_.positions(),   staged_.angles(false).cos};
  EXPECT_TRUE(std::equal(std::begin(before), std::end(before), std::begin(after)));
}

TEST_F(StagedBatchTest, TablesGrowOnTheDeviceAndChangeHands) {
  std::vector<int32_t> table = Blocks(3, 40);
  ASSERT_TRUE(Stage(table, 2 * kBlock, {1, 8}).ok());
  EXPECT_EQ(Table(3), table);
  // What the device knows already is not looked at again.
  std::vector<int32_t> longer = {-1, -1, -1, 50, 51};
  ASSERT_TRUE(Stage(longer, 4 * kBlock, {1, 8}).ok());
  EXPECT_EQ(Table(5), (std::vector<int32_t>{40, 41, 42, 50, 51}));
  ASSERT_TRUE(Stage({60, 61}, kBlock, {2, 9}).ok());
  EXPECT_EQ(Table(2), (std::vector<int32_t>{60, 61}));
  ASSERT_TRUE(Stage({70}, 0, {1, 10}).ok());  // another sequence in the first one's place
  EXPECT_EQ(Table(2), (std::vector<int32_t>{70, 41}));
}

TEST_F(StagedBatchTest, ATableOfAnyLengthGoesThere) {
  for (const size_t blocks : {16384u, 16385u, 20000u}) {
    const std::vector<int32_t> table = Blocks(blocks, static_cast<int>(blocks));
    ASSERT_TRUE(Stage(table, static_cast<int>(blocks - 1) * kBlock, {0, blocks}).ok());
    EXPECT_EQ(Table(blocks), table) << blocks;
    EXPECT_EQ(Read(staged_.sources(), 1)[0], 7);
  }
}

TEST_F(StagedBatchTest, RefusesWhatDoesNotFit) {
  EXPECT_EQ(Stage({5}, 0, {4, 1}).code(), absl::StatusCode::kInvalidArgument) << "there are four places";
  EXPECT_EQ(Stage({5}, 0, {0, 1}, 5).code(), absl::StatusCode::kInvalidArgument) << "at most four sample";
  EXPECT_TRUE(Stage({5}, 0, {3, 1}, 4).ok());
}

}  // namespace
}  // namespace shoal::graph
