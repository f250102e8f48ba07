#include "coordinator/core/checksums.h"

#include <string>

#include "gtest/gtest.h"

namespace shoal::core {
namespace {

using Indices = std::vector<int32_t>;

Indices Odd(std::vector<uint64_t> values) { return OddOnes(values); }

TEST(OddOnes, Table) {
  EXPECT_EQ(Odd({}), Indices{});
  EXPECT_EQ(Odd({7}), Indices{});
  EXPECT_EQ(Odd({7, 7, 7}), Indices{});
  EXPECT_EQ(Odd({7, 8}), (Indices{0, 1})) << "two cannot outvote each other";
  EXPECT_EQ(Odd({7, 8, 7}), Indices{1});
  EXPECT_EQ(Odd({8, 7, 7, 7}), Indices{0});
  EXPECT_EQ(Odd({7, 7, 8, 8}), (Indices{0, 1, 2, 3}));
  EXPECT_EQ(Odd({7, 8, 9}), (Indices{0, 1, 2}));
  EXPECT_EQ(Odd({7, 7, 7, 8, 9}), (Indices{3, 4}));
}

TEST(ChecksumWatch, AsksOnceInAnInterval) {
  ChecksumWatch watch(2, 1, 3);
  for (uint64_t step = 1; step <= 12; ++step) EXPECT_EQ(watch.Ask(step, false), step % 3 == 1) << step;
  EXPECT_TRUE(watch.Ask(14, true));
  EXPECT_FALSE(ChecksumWatch(2, 1, 0).Ask(1, true)) << "off";
  EXPECT_FALSE(ChecksumWatch(1, 4, 3).Ask(1, true)) << "nobody to compare with";
}

TEST(ChecksumWatch, ComparesWithinAStageInAnyOrderOfAnswers) {
  ChecksumWatch watch(2, 2, 1);
  ASSERT_TRUE(watch.Ask(1, false));
  ASSERT_TRUE(watch.Ask(2, false));
  EXPECT_FALSE(watch.Note(3, 1, 50));
  EXPECT_FALSE(watch.Note(1, 1, 40));
  EXPECT_FALSE(watch.Note(1, 2, 41));  // ahead of its peer
  EXPECT_EQ(watch.agreed(), 0u);
  EXPECT_FALSE(watch.Note(0, 1, 40));
  EXPECT_FALSE(watch.Note(2, 1, 50));
  EXPECT_EQ(watch.agreed(), 2u);
  EXPECT_FALSE(watch.Note(0, 3, 1)) << "of a plan that asked for nothing";
  const auto mismatch = watch.Note(0, 2, 42);
  ASSERT_TRUE(mismatch.has_value());
  EXPECT_EQ(mismatch->ranks, (Indices{0, 1}));
  EXPECT_EQ(
      mismatch->text,
      "hidden states of stage 0 differ at step 2: rank 0 has 000000000000002a, rank 1 has 0000000000000029; which "
      "of them is wrong cannot be told");
}

TEST(ChecksumWatch, WithThreeTheWrongOneIsNamed) {
  ChecksumWatch watch(3, 2, 1);
  watch.Ask(1, false);
  watch.Note(3, 1, 5);
  watch.Note(4, 1, 6);
  const auto mismatch = watch.Note(5, 1, 5);
  ASSERT_TRUE(mismatch.has_value());
  EXPECT_EQ(mismatch->ranks, Indices{4});
  EXPECT_NE(mismatch->text.find("rank 4 is wrong"), std::string::npos) << mismatch->text;
}

TEST(ChecksumWatch, NoChecksumIsNone) {
  ChecksumWatch watch(2, 1, 1);
  watch.Ask(1, false);
  watch.Note(0, 1, 0);
  EXPECT_TRUE(watch.Note(1, 1, 0).has_value()) << "both were asked";
}

TEST(ChecksumWatch, RanksThatNeverAnswerCostNoMemory) {
  ChecksumWatch watch(2, 1, 1);
  for (uint64_t step = 1; step <= 100000; ++step) {
    watch.Ask(step, false);
    watch.Note(0, step, 1);
  }
  EXPECT_FALSE(watch.Note(1, 1, 2)) << "forgotten";
  EXPECT_TRUE(watch.Note(1, 100000, 2).has_value());
}

}  // namespace
}  // namespace shoal::core
