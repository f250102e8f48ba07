#include "kernels/cuda/copy_blocks.h"

#include <numeric>

#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

using ops::BlockPair;

constexpr int kBlocks = 12, kBlockSize = 16, kHeads = 3, kHeadDim = 8, kLayers = 3;
constexpr int kBlockElements = kBlockSize * kHeads * kHeadDim;

// K and V of each layer, one after the other, after the copies.
std::vector<uint16_t> Filled() {
  std::vector<uint16_t> all(size_t{kLayers} * 2 * kBlocks * kBlockElements);
  std::iota(all.begin(), all.end(), uint16_t{0});
  return all;
}

std::vector<uint16_t> OnDevice(const std::vector<BlockPair>& pairs) {
  Buffer<uint16_t> cache(size_t{kLayers} * 2 * kBlocks * kBlockElements);
  const auto before = Filled();
  std::copy(before.begin(), before.end(), cache.data());
  std::vector<void*> buffers;
  for (int b = 0; b < 2 * kLayers; ++b) buffers.push_back(cache.data() + b * kBlocks * kBlockElements);
  const CopyBlocks op = {buffers.data(), 2 * kLayers, 2 * kBlockElements, pairs.data(), static_cast<int>(pairs.size())};
  EXPECT_TRUE(Enqueue(nullptr, op).ok());
  return {cache.data(), cache.data() + cache.size()};
}

std::vector<uint16_t> Expected(const std::vector<BlockPair>& pairs) {
  auto all = Filled();
  const auto stream = ops::MakeCpuStream(1);
  for (int layer = 0; layer < kLayers; ++layer) {
    uint16_t* const k = all.data() + 2 * layer * kBlocks * kBlockElements;
    const ops::KvLayer cache = {k, k + kBlocks * kBlockElements, DType::kBF16, kBlockSize, kHeads, kHeadDim};
    EXPECT_TRUE(ops::RefTable().copy_blocks(*stream, {cache, pairs.data(), static_cast<int>(pairs.size())}).ok());
  }
  return all;
}

TEST(CudaCopyBlocks, CopiesInOrder) {
  const std::vector<std::vector<BlockPair>> lists = {
      {{3, 1}},
      {{0, 1}, {0, 2}, {5, 6}, {7, 8}, {9, 10}},          // four apart, and one more
      {{0, 1}, {1, 2}, {2, 3}, {3, 4}, {4, 5}},           // a chain: all become block 0
      {{0, 1}, {2, 3}, {4, 0}, {5, 1}},                   // a source is written later, a target twice
      {{6, 7}, {7, 6}, {2, 2}, {1, 0}, {0, 1}, {8, 9}}};  // back again, and onto itself
  for (const auto& pairs : lists) {
    const auto got = InEveryOrder<uint16_t>([&] { return OnDevice(pairs); });
    EXPECT_EQ(got, Expected(pairs)) << pairs.size() << " pairs";
    EXPECT_NE(got, Filled()) << "trivial";
  }
}

TEST(CudaCopyBlocks, ANegativeSourceEndsTheList) {
  const BlockPair end = {-1, 5};
  const std::vector<BlockPair> two = {{0, 1}, {2, 3}};
  for (const size_t room : {3, 4, 7, 8}) {
    auto padded = two;
    padded.resize(room, end);
    EXPECT_EQ(OnDevice(padded), Expected(two));
  }
  EXPECT_EQ(OnDevice(std::vector<BlockPair>(6, end)), Filled());
}

TEST(CudaCopyBlocks, RefusesBlocksThatAreNotInWholeVectors) {
  EXPECT_EQ(Enqueue(nullptr, CopyBlocks{nullptr, 2, 40, nullptr, 1}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Enqueue(nullptr, CopyBlocks{nullptr, 70000, 32, nullptr, 1}).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shoal::cuda
