#include "kernels/ops/token_counts.h"

#include <gtest/gtest.h>

#include "tests/kernels/kernel_test_util.h"

namespace shoal::ops {
namespace {

class TokenCounts : public testing::TestWithParam<const OpTable*> {
 protected:
  void Count(std::vector<int32_t> tokens, std::vector<int32_t> places, bool in_prompt) {
    const CountTokensArgs args = {tokens.data(), places.data(), counts_.data(), static_cast<int>(tokens.size()),
                                  kVocab,        in_prompt};
    ASSERT_TRUE(GetParam()->count_tokens(*stream_, args).ok());
  }
  void Clear(std::vector<int32_t> places) {
    const ClearCountsArgs args = {counts_.data(), places.data(), static_cast<int>(places.size()), kVocab};
    ASSERT_TRUE(GetParam()->clear_counts(*stream_, args).ok());
  }
  uint16_t& At(int place, int id) { return counts_[static_cast<size_t>(place * CountsStride(kVocab) + id)]; }

  static constexpr int kVocab = 21, kPlaces = 3;
  const std::unique_ptr<Stream> stream_ = MakeCpuStream(2);
  std::vector<uint16_t> counts_ = std::vector<uint16_t>(kPlaces * CountsStride(kVocab), 0xabcd);
};

TEST(TokenCountsTable, RowsBeginOnBordersOf16Bytes) {
  EXPECT_EQ(CountsStride(21), 24);
  EXPECT_EQ(CountsStride(24), 24);
  EXPECT_EQ(CountsStride(128256), 128256);
}

TEST_P(TokenCounts, TellPromptFromGenerated) {
  Clear({0, 1, 2});
  Count({3, 3, 20, 0, 5}, {1, 1, 1, 0, 2}, true);
  Count({3, 4, 4, 0, 3}, {1, 1, 1, 1, 1}, false);
  std::vector<uint16_t> expected(counts_.size());
  const auto width = static_cast<size_t>(CountsStride(kVocab));
  expected[width + 3] = kInPrompt | 2;
  expected[width + 4] = 2;
  expected[width + 0] = 1;
  expected[width + 20] = kInPrompt;
  expected[0] = kInPrompt;
  expected[2 * width + 5] = kInPrompt;
  EXPECT_EQ(counts_, expected);
}

TEST_P(TokenCounts, SkipWhatIsNoTokenOrHasNoPlace) {
  Clear({0, 1, 2});
  for (const bool in_prompt : {true, false}) Count({-1, kVocab, 1 << 30, 4}, {0, 0, 1, -1}, in_prompt);
  EXPECT_EQ(counts_, std::vector<uint16_t>(counts_.size(), 0));
}

TEST_P(TokenCounts, ClearOnlyTheirPlaces) {
  Clear({2, -1, 0});
  for (int id = 0; id < CountsStride(kVocab); ++id) {
    EXPECT_EQ(At(0, id), 0);
    EXPECT_EQ(At(1, id), 0xabcd);
    EXPECT_EQ(At(2, id), 0);
  }
}

TEST_P(TokenCounts, StayAtTheMostThatCanBeTold) {
  Clear({0});
  At(0, 6) = kInPrompt | (kMostGenerated - 2);
  At(0, 7) = kMostGenerated - 1;
  Count({6, 7}, {0, 0}, false);
  EXPECT_EQ(At(0, 6), kInPrompt | (kMostGenerated - 1));
  EXPECT_EQ(At(0, 7), kMostGenerated);
  Count({6, 7, 6, 7, 6}, {0, 0, 0, 0, 0}, false);
  EXPECT_EQ(At(0, 6), kInPrompt | kMostGenerated);
  EXPECT_EQ(At(0, 7), kMostGenerated) << "it grew into the prompt's bit";
  EXPECT_EQ(At(0, 5), 0);
  EXPECT_EQ(At(0, 8), 0);
}

INSTANTIATE_TEST_SUITE_P(Tables, TokenCounts, testing::ValuesIn(RunnableOpTables()),
                         [](const auto& info) { return NameOf(*info.param); });

}  // namespace
}  // namespace shoal::ops
