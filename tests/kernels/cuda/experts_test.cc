// Where tokens go, and how they come back. The products between: expert_linear_test.cc.
#include "kernels/cuda/experts.h"

#include <algorithm>
#include <limits>

#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

// Routes with something behind each array that nobody may write.
struct Routed {
  Routed(int tokens_count, int experts, int used)
      : weights(static_cast<size_t>(tokens_count * used) + 1, -1.0f),
        sorted(weights.size(), -1),
        tokens(weights.size(), -1),
        first(static_cast<size_t>(experts) + 2, -1) {}
  std::vector<float> weights;
  std::vector<int32_t> sorted, tokens, first;
  ops::Routes View() { return {weights.data(), sorted.data(), tokens.data(), first.data()}; }
  void ExpectGuards() const {
    EXPECT_EQ(weights.back(), -1);
    for (const auto* v : {&sorted, &tokens, &first}) EXPECT_EQ(v->back(), -1);
  }
};

struct Case {
  int tokens, experts, used;
  bool renormalise;
};

Routed OnDevice(const Case& c, const std::vector<float>& logits) {
  Routed r(c.tokens, c.experts, c.used);
  const absl::Status status =
      Enqueue(nullptr, ops::RouteArgs{logits.data(), r.View(), c.tokens, c.experts, c.used, c.renormalise});
  EXPECT_TRUE(status.ok()) << status;
  r.ExpectGuards();
  return r;
}
Routed Reference(const Case& c, const std::vector<float>& logits) {
  Routed r(c.tokens, c.experts, c.used);
  const auto stream = ops::MakeCpuStream(1);
  EXPECT_TRUE(
      ops::RefTable().route(*stream, {logits.data(), r.View(), c.tokens, c.experts, c.used, c.renormalise}).ok());
  return r;
}

void ExpectSameRoutes(const Routed& expected, const Routed& got) {
  EXPECT_EQ(expected.first, got.first);
  EXPECT_EQ(expected.sorted, got.sorted);
  EXPECT_EQ(expected.tokens, got.tokens);
  for (size_t i = 0; i < expected.weights.size(); ++i) {
    EXPECT_NEAR(got.weights[i], expected.weights[i], 1e-7f * std::abs(expected.weights[i])) << i;
  }
}

TEST(CudaRoute, IsTheReference) {
  for (const Case& c : {Case{1, 1, 1, true},
                        {1, 8, 2, true},
                        {7, 8, 2, false},
                        {40, 60, 4, false},
                        {33, 128, 8, true},
                        {100, 512, 16, true},
                        {5, 16, 16, true},
                        {1100, 33, 2, true}}) {
    SCOPED_TRACE(testing::Message() << c.tokens << " tokens, " << c.used << " of " << c.experts);
    const auto logits = ops::RandomFloats(static_cast<size_t>(c.tokens * c.experts), 1, 2);
    ExpectSameRoutes(Reference(c, logits), OnDevice(c, logits));
  }
}

// Most of them equal, zeros of both signs among them: the lower id first.
TEST(CudaRoute, TiesGoToTheLowerId) {
  const Case c = {9, 70, 5, true};
  auto logits = ops::RandomFloats(static_cast<size_t>(c.tokens * c.experts), 2);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = i % 3 == 0 ? -0.0f : std::round(logits[i]);
  ExpectSameRoutes(Reference(c, logits), OnDevice(c, logits));
  const std::vector<float> equal(static_cast<size_t>(c.tokens * c.experts), 1.5f);
  const Routed r = OnDevice(c, equal);
  ExpectSameRoutes(Reference(c, equal), r);
  EXPECT_EQ(r.first[1], c.tokens) << "all go to the first five";
}

TEST(CudaRoute, TheOrderOfThreadsDoesNotShow) {
  const Case c = {50, 130, 6, true};
  const auto logits = ops::RandomFloats(static_cast<size_t>(c.tokens * c.experts), 3);
  const auto all = InEveryOrder<float>([&] {
    const Routed r = OnDevice(c, logits);
    std::vector<float> v = r.weights;
    for (const auto* ints : {&r.sorted, &r.tokens, &r.first}) v.insert(v.end(), ints->begin(), ints->end());
    return v;
  });
  EXPECT_GT(*std::max_element(all.begin(), all.end()), 200);
}

TEST(CudaRoute, WeightsOfATokenAreItsOwn) {
  const Case c = {30, 60, 4, true};
  const auto logits = ops::RandomFloats(static_cast<size_t>(c.tokens * c.experts), 4, 3);
  const Routed all = OnDevice(c, logits);
  for (int t = 0; t < c.tokens; ++t) {
    const Routed one = OnDevice({1, 60, 4, true}, {logits.begin() + t * 60, logits.begin() + (t + 1) * 60});
    ops::ExpectSameBits(all.weights.data() + t * 4, one.weights.data(), 4);
  }
}

// A row of padding may hold anything: every row is somebody's all the same, and the others' weights stay.
TEST(CudaRoute, WhatIsNoNumberHarmsNoOther) {
  const Case c = {12, 40, 3, true};
  auto logits = ops::RandomFloats(static_cast<size_t>(c.tokens * c.experts), 5);
  const Routed before = OnDevice(c, logits);
  const float inf = std::numeric_limits<float>::infinity();
  for (int e = 0; e < c.experts; ++e) logits[static_cast<size_t>(4 * 40 + e)] = e % 2 == 0 ? NAN : -NAN;
  logits[5 * 40 + 7] = NAN;
  for (int e = 0; e < c.experts; ++e) logits[static_cast<size_t>(6 * 40 + e)] = -inf;
  logits[7 * 40 + 3] = inf;
  const Routed after = OnDevice(c, logits);
  std::vector<int32_t> seen(after.sorted.begin(), after.sorted.end() - 1);
  std::sort(seen.begin(), seen.end());
  for (int i = 0; i < c.tokens * c.used; ++i) ASSERT_EQ(seen[static_cast<size_t>(i)], i) << "every row once";
  for (int t = 0; t < c.tokens; ++t) {
    for (int j = 0; j < c.used; ++j) {
      const auto at = static_cast<size_t>(t * c.used + j);
      EXPECT_EQ(after.tokens[static_cast<size_t>(after.sorted[at])], t);
      if (t >= 4 && t < 8) {
        EXPECT_TRUE(std::isnan(after.weights[at])) << t;
      } else {
        EXPECT_EQ(after.weights[at], before.weights[at]) << t;
      }
    }
  }
}

TEST(CudaRoute, RefusesWhatItHasNoRoomFor) {
  const std::vector<float> logits(ops::kMaxExperts + 1);
  Routed r(1, ops::kMaxExperts + 1, ops::kMaxExpertsUsed + 1);
  for (const auto& [experts, used] :
       {std::pair{ops::kMaxExperts + 1, 2}, {64, ops::kMaxExpertsUsed + 1}, {2, 3}, {4, 0}}) {
    EXPECT_EQ(Enqueue(nullptr, ops::RouteArgs{logits.data(), r.View(), 1, experts, used, false}).code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(CudaRoute, NoTokensAreNobodys) {
  const Routed r = OnDevice({0, 5, 2, true}, {});
  EXPECT_EQ(r.first, (std::vector<int32_t>{0, 0, 0, 0, 0, 0, -1}));
}

TEST(CudaJoinExperts, IsTheWeightedSumInOrder) {
  constexpr int kTokens = 6, kExperts = 9, kUsed = 3;
  for (const int dim : {8, 264, 2304}) {
    const auto logits = ops::RandomFloats(kTokens * kExperts, 7);
    const Routed r = OnDevice({kTokens, kExperts, kUsed, true}, logits);
    const auto y = RandomBf16(static_cast<size_t>(kTokens * kUsed * dim), 8);
    std::vector<float> expected(static_cast<size_t>(kTokens * dim));
    const auto stream = ops::MakeCpuStream(1);
    ASSERT_TRUE(
        ops::RefTable()
            .join_experts(*stream, {y.data(), r.weights.data(), r.sorted.data(), expected.data(), kTokens, kUsed, dim})
            .ok());
    for (float& v : expected) v = BF16ToF32(F32ToBF16(v));
    Buffer<bf16> dy(y), out(expected.size());
    ASSERT_TRUE(
        Enqueue(nullptr, JoinExperts{dy.data(), r.weights.data(), r.sorted.data(), out.data(), kTokens, kUsed, dim})
            .ok());
    ops::ExpectSameBits(expected, out.Floats());
  }
  EXPECT_EQ(Enqueue(nullptr, JoinExperts{nullptr, nullptr, nullptr, nullptr, 1, 2, 12}).code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shoal::cuda
