#include "common/base/rng.h"

#include <gtest/gtest.h>

#include <set>

namespace shoal {
namespace {

// Known answers of philox4x32-10 from the paper's reference distribution (Random123, kat_vectors).
TEST(Philox, KnownAnswers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox(0, {0, 0, 0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox(~0ull, {~0u, ~0u, ~0u, ~0u}), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox(0x299f31d0a4093822ull, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(SamplingUniform, DependsOnEveryPartOfItsKey) {
  std::set<float> values;
  for (uint64_t seed : {1ull, 2ull, 1ull << 40}) {
    for (uint32_t choice : {0u, 1u}) {
      for (uint32_t position : {0u, 1u, 77u}) {
        for (uint32_t draw : {0u, 1u}) values.insert(SamplingUniform(seed, choice, position, draw));
      }
    }
  }
  EXPECT_EQ(values.size(), 3u * 2 * 3 * 2);
}

TEST(SamplingUniform, IsUniformInTheUnitInterval) {
  double sum = 0;
  int below_tenth = 0;
  constexpr int kDraws = 100000;
  for (int i = 0; i < kDraws; ++i) {
    const float u = SamplingUniform(42, 0, static_cast<uint32_t>(i), 0);
    ASSERT_GE(u, 0.0f);
    ASSERT_LT(u, 1.0f);
    sum += u;
    below_tenth += u < 0.1f;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.005);
  EXPECT_NEAR(below_tenth / static_cast<double>(kDraws), 0.1, 0.005);
}

TEST(RandomBits, StreamsDiffer) {
  EXPECT_NE(RandomBits(1, 0, 5), RandomBits(1, 1, 5));
  EXPECT_NE(RandomBits(1, 0, 5), RandomBits(2, 0, 5));
  EXPECT_NE(RandomBits(1, 0, 5), RandomBits(1, 0, 5ull << 32));
  EXPECT_EQ(RandomBits(1, 0, 5), RandomBits(1, 0, 5));
}

}  // namespace
}  // namespace shoal
