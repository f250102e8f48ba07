#include "kernels/cuda/copy_blocks.h"

#include <numeric>

#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

using ops::BlockPair;

constexpr int kBlocks = 12, kBlockSize = 16, kHeads = 3, kHeadDim = 88;  // more vectors than a thread block has
constexpr int kElements = kBlocks * kBlockSize * kHeads * kHeadDim;

// K, then V.
std::vector<uint16_t> Filled() {
  std::vector<uint16_t> all(size_t{2} * kElements);
  std::iota(all.begin(), all.end(), uint16_t{0});
  return all;
}
ops::CopyBlocksArgs ArgsOf(uint16_t* cache, const std::vector<BlockPair>& pairs) {
  return {{cache, cache + kElements, DType::kBF16, kBlockSize, kHeads, kHeadDim},
          pairs.data(),
          static_cast<int>(pairs.size())};
}

std::vector<uint16_t> OnDevice(const std::vector<BlockPair>& pairs) {
  Buffer<uint16_t> cache(size_t{2} * kElements);
  const auto before = Filled();
  std::copy(before.begin(), before.end(), cache.data());
  EXPECT_TRUE(Enqueue(nullptr, ArgsOf(cache.data(), pairs)).ok());
  return {cache.data(), cache.data() + cache.size()};
}

std::vector<uint16_t> Expected(const std::vector<BlockPair>& pairs) {
  auto all = Filled();
  const auto stream = ops::MakeCpuStream(1);
  EXPECT_TRUE(ops::RefTable().copy_blocks(*stream, ArgsOf(all.data(), pairs)).ok());
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

TEST(CudaCopyBlocks, RefusesBlocksThatAreNotInWholeVectors) {
  const BlockPair pair = {0, 1};
  const ops::CopyBlocksArgs op = {{nullptr, nullptr, DType::kBF16, 1, 1, 20}, &pair, 1};
  EXPECT_EQ(Enqueue(nullptr, op).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shoal::cuda
