#include "worker/sampling/mask_source.h"

#include <gtest/gtest.h>

#include "common/base/rng.h"

namespace shoal::sampling {
namespace {

using Tokens = std::vector<int32_t>;
constexpr int kVocab = 70;
using Mask = std::vector<uint32_t>;

Tokens Allowed(const Mask& mask) {
  Tokens out;
  for (int32_t id = 0; id < kVocab; ++id) {
    if ((mask[id / 32] >> id % 32 & 1) != 0) out.push_back(id);
  }
  return out;
}
Tokens Forbidden(const Mask& mask) {
  Tokens out;
  for (int32_t id = 0; id < kVocab; ++id) {
    if ((mask[id / 32] >> id % 32 & 1) == 0) out.push_back(id);
  }
  return out;
}

// A source that begins at that position: what it says depends on nothing else.
Mask Fresh(const plan::SamplingParams& sampling, int32_t prompt, const Tokens& tokens) {
  Mask mask(3, 0x5a5a5a5a);
  EXPECT_TRUE(MakeMaskSource(sampling, prompt)->Update(static_cast<int32_t>(tokens.size()), tokens, mask));
  return mask;
}

TEST(MaskSourceTest, AllIdsAreAllowedUnlessSomethingForbidsThem) {
  plan::SamplingParams sampling;
  EXPECT_EQ(MakeMaskSource(sampling, 4), nullptr);
  sampling.end_tokens = {1};
  EXPECT_EQ(MakeMaskSource(sampling, 4), nullptr) << "they are read when min_tokens is not 0";
  EXPECT_FALSE(HasMask(sampling, 4, 4));
  sampling.end_tokens.clear();
  sampling.min_tokens = 9;
  EXPECT_EQ(MakeMaskSource(sampling, 4), nullptr) << "nothing ends it";
  sampling = {};
  sampling.repetition_penalty = 2;
  sampling.biases = {{3, -100}};
  EXPECT_EQ(MakeMaskSource(sampling, 4), nullptr);
}

TEST(MaskSourceTest, EndTokensAreForbiddenUntilThereAreMinTokens) {
  plan::SamplingParams sampling;
  sampling.end_tokens = {0, 31, 32, 69};
  sampling.min_tokens = 3;
  const auto source = MakeMaskSource(sampling, 10);
  EXPECT_FALSE(source->reads_tokens());
  Mask mask(3);
  EXPECT_TRUE(source->Update(10, {}, mask));
  EXPECT_EQ(Forbidden(mask), sampling.end_tokens);
  EXPECT_FALSE(source->Update(11, {}, mask));
  EXPECT_FALSE(source->Update(12, {}, mask)) << "the third token";
  EXPECT_EQ(Forbidden(mask), sampling.end_tokens);
  EXPECT_TRUE(HasMask(sampling, 10, 12));
  EXPECT_FALSE(HasMask(sampling, 10, 13));
  EXPECT_TRUE(source->Update(13, {}, mask));
  EXPECT_EQ(Forbidden(mask), Tokens());
}

TEST(MaskSourceTest, OnlyAllowedTokensButNoBadOnes) {
  plan::SamplingParams sampling;
  sampling.allowed_tokens = {2, 31, 40, 63, 64};
  sampling.bad_words = {{40}, {7}};
  sampling.end_tokens = {64};
  sampling.min_tokens = 1;
  const auto source = MakeMaskSource(sampling, 5);
  EXPECT_FALSE(source->reads_tokens());
  Mask mask(3);
  EXPECT_TRUE(source->Update(5, {}, mask));
  EXPECT_EQ(Allowed(mask), (Tokens{2, 31, 63}));
  EXPECT_TRUE(source->Update(6, {}, mask));
  EXPECT_EQ(Allowed(mask), (Tokens{2, 31, 63, 64}));
  EXPECT_FALSE(source->Update(7, {}, mask));
}

TEST(MaskSourceTest, AWordOfSeveralTokensLacksItsLast) {
  plan::SamplingParams sampling;
  sampling.bad_words = {{9}, {1, 2, 3}, {2, 4}, {5, 5}};
  const auto source = MakeMaskSource(sampling, 1);
  EXPECT_TRUE(source->reads_tokens());
  Mask mask(3);
  const auto next = [&](const Tokens& tokens) {
    source->Update(static_cast<int32_t>(tokens.size()), tokens, mask);
    EXPECT_EQ(mask, Fresh(sampling, 1, tokens));
    return Forbidden(mask);
  };
  EXPECT_EQ(next({1}), (Tokens{9}));
  EXPECT_EQ(next({1, 2}), (Tokens{3, 4, 9})) << "also of the prompt";
  EXPECT_EQ(next({7, 2}), (Tokens{4, 9}));
  EXPECT_EQ(next({1, 2, 7}), (Tokens{9}));
  EXPECT_EQ(next({1, 2, 7, 5}), (Tokens{5, 9}));
  EXPECT_EQ(next({2, 1}), (Tokens{9}));
}

// Update says that a mask is right exactly when it is.
TEST(MaskSourceTest, AMaskThatIsKeptIsTheOneThatWouldBeMade) {
  plan::SamplingParams sampling;
  sampling.bad_words = {{1, 2}, {2, 1}, {0, 0, 0}, {2, 2}, {1, 3}};
  sampling.end_tokens = {3};
  sampling.min_tokens = 40;
  const auto source = MakeMaskSource(sampling, 3);
  Mask mask(3);
  Tokens tokens = {0, 1, 2};
  int kept = 0, made = 0;
  for (uint64_t i = 0; i < 300; ++i) {
    const Mask before = mask;
    const bool changed = source->Update(static_cast<int32_t>(tokens.size()), tokens, mask);
    ++(changed ? made : kept);
    EXPECT_TRUE(changed || mask == before);
    ASSERT_EQ(mask, Fresh(sampling, 3, tokens)) << i;
    tokens.push_back(static_cast<int32_t>(RandomBits(7, i, 0) % 4));
  }
  EXPECT_GT(kept, 30);
  EXPECT_GT(made, 30);
}

}  // namespace
}  // namespace shoal::sampling
