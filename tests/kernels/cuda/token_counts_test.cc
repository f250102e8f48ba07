#include "kernels/cuda/token_counts.h"

#include "common/base/rng.h"
#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

constexpr int kVocab = 1003, kPlaces = 5;
constexpr size_t kCounts = kPlaces * ops::CountsStride(kVocab);

std::vector<uint16_t> Zeros() { return std::vector<uint16_t>(kCounts); }

// The same calls on the device's counts and on the reference's.
std::vector<uint16_t> Counted(const std::vector<uint16_t>& before, const std::vector<int32_t>& tokens,
                              const std::vector<int32_t>& places, bool in_prompt) {
  const auto count = static_cast<int>(tokens.size());
  std::vector<uint16_t> expected = before;
  const auto stream = ops::MakeCpuStream(1);
  const ops::CountTokensArgs reference = {tokens.data(), places.data(), expected.data(), count, kVocab, in_prompt};
  EXPECT_TRUE(ops::RefTable().count_tokens(*stream, reference).ok());
  const auto got = InEveryOrder<uint16_t>([&] {
    Buffer<uint16_t> counts(kCounts);
    std::memcpy(counts.data(), before.data(), kCounts * sizeof(uint16_t));
    ops::CountTokensArgs args = reference;
    args.counts = counts.data();
    EXPECT_TRUE(Enqueue(nullptr, args).ok());
    return std::vector<uint16_t>(counts.data(), counts.data() + kCounts);
  });
  EXPECT_EQ(got, expected);
  return got;
}

TEST(CudaTokenCounts, AWordHasTwoCountsThatStayApart) {
  EXPECT_EQ(WithGenerated(0, 0, 3), 3u);
  EXPECT_EQ(WithGenerated(0, 1, 3), 0x30000u);
  EXPECT_EQ(WithGenerated(0x80018002u, 6, 5), 0x80018007u);
  EXPECT_EQ(WithGenerated(0x80018002u, 7, 5), 0x80068002u);
  EXPECT_EQ(WithGenerated(0xfffe7ffeu, 0, 1), 0xfffe7fffu);
  EXPECT_EQ(WithGenerated(0xfffe7ffeu, 0, 32), 0xfffe7fffu);
  EXPECT_EQ(WithGenerated(0xfffe7fffu, 1, 2), 0xffff7fffu);
  EXPECT_EQ(WithGenerated(0xffffffffu, 1, 1), 0xffffffffu);
  EXPECT_EQ(PromptBit(4), 0x8000u);
  EXPECT_EQ(PromptBit(5), 0x80000000u);
}

TEST(CudaTokenCounts, CountsAsTheReference) {
  for (const int count : {1, 31, 70, 3000, 20000}) {
    std::vector<int32_t> tokens, places;
    for (uint64_t i = 0; i < static_cast<uint64_t>(count); ++i) {
      // Of few ids many, of others few; some that are none, and some rows without a place.
      const uint64_t bits = RandomBits(3, 0, i);
      tokens.push_back(static_cast<int32_t>(bits % 3 == 0 ? bits / 3 % 1010 : bits / 3 % 5) - 1);
      places.push_back(static_cast<int32_t>(bits >> 32 & 0xffff) % (kPlaces + 1) - 1);
    }
    const auto prompt = Counted(Zeros(), tokens, places, true);
    const auto both = Counted(prompt, tokens, places, false);
    EXPECT_NE(both, prompt);
  }
}

TEST(CudaTokenCounts, StayAtTheMostThatCanBeTold) {
  std::vector<uint16_t> counts = Zeros();
  counts[6] = ops::kInPrompt | (ops::kMostGenerated - 40);
  counts[7] = ops::kMostGenerated - 3;
  std::vector<int32_t> tokens;
  for (int i = 0; i < 100; ++i) tokens.insert(tokens.end(), {6, 7, 5});
  counts = Counted(counts, tokens, std::vector<int32_t>(tokens.size(), 0), false);
  EXPECT_EQ(counts[6], 0xffff);
  EXPECT_EQ(counts[7], 0x7fff);
  EXPECT_EQ(counts[5], 100);
}

TEST(CudaTokenCounts, ClearOnlyTheirPlaces) {
  const std::vector<int32_t> places = {4, -1, 0};
  const auto got = InEveryOrder<uint16_t>([&] {
    Buffer<uint16_t> counts(kCounts);
    EXPECT_TRUE(Enqueue(nullptr, ops::ClearCountsArgs{counts.data(), places.data(), 3, kVocab}).ok());
    return std::vector<uint16_t>(counts.data(), counts.data() + kCounts);
  });
  for (size_t i = 0; i < kCounts; ++i) {
    const size_t place = i / ops::CountsStride(kVocab);
    EXPECT_EQ(got[i], place == 4 || place == 0 ? 0 : 0xffff) << i;
  }
}

TEST(CudaTokenCounts, NothingIsNothingToDo) {
  EXPECT_TRUE(Enqueue(nullptr, ops::ClearCountsArgs{nullptr, nullptr, 0, kVocab}).ok());
  EXPECT_TRUE(Enqueue(nullptr, ops::CountTokensArgs{nullptr, nullptr, nullptr, 0, kVocab, true}).ok());
}

}  // namespace
}  // namespace shoal::cuda
