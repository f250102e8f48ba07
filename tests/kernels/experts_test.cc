#include "kernels/ops/experts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/kernels/kernel_test_util.h"

namespace shoal::ops {
namespace {

// The memory of Routes.
struct RouteMemory {
  RouteMemory(int tokens, int experts, int used)
      : weights(static_cast<size_t>(tokens * used), -1.0f),
        sorted(weights.size(), -1),
        tokens(weights.size(), -1),
        first(static_cast<size_t>(experts) + 1, -1) {}
  Routes View() { return {weights.data(), sorted.data(), tokens.data(), first.data()}; }
  std::vector<float> weights;
  std::vector<int32_t> sorted, tokens, first;
};

RouteMemory Route(const OpTable& table, const std::vector<float>& logits, int experts, int used, bool renormalise,
                  int threads = 2) {
  const int tokens = static_cast<int>(logits.size()) / experts;
  RouteMemory out(tokens, experts, used);
  const std::unique_ptr<Stream> stream = MakeCpuStream(threads);
  EXPECT_TRUE(table.route(*stream, {logits.data(), out.View(), tokens, experts, used, renormalise}).ok());
  return out;
}

// The expert of (token, place): whose run its sorted row lies in.
int ExpertOf(const RouteMemory& r, size_t at) {
  return static_cast<int>(std::upper_bound(r.first.begin(), r.first.end(), r.sorted[at]) - r.first.begin()) - 1;
}

class Experts : public testing::TestWithParam<const OpTable*> {
 protected:
  const OpTable& table() const { return *GetParam(); }
};

TEST_P(Experts, RouteTakesTheLargestAndSortsThem) {
  const float ln2 = std::log(2.0f);
  // Probabilities 1/8 2/8 4/8 1/8, and 1/4 each: the lower id first.
  const std::vector<float> logits = {0, ln2, 2 * ln2, 0, 7, 7, 7, 7};
  const RouteMemory r = Route(table(), logits, 4, 2, false);
  EXPECT_EQ(r.first, (std::vector<int32_t>{0, 1, 3, 4, 4}));
  EXPECT_EQ(r.sorted, (std::vector<int32_t>{3, 1, 0, 2})) << "token 0: experts 2, 1; token 1: experts 0, 1";
  EXPECT_EQ(r.tokens, (std::vector<int32_t>{1, 0, 1, 0}));
  const std::vector<float> p = {0.5f, 0.25f, 0.25f, 0.25f};
  for (size_t i = 0; i < p.size(); ++i) EXPECT_FLOAT_EQ(r.weights[i], p[i]);
  const RouteMemory whole = Route(table(), logits, 4, 2, true);
  const std::vector<float> of_one = {2.0f / 3, 1.0f / 3, 0.5f, 0.5f};
  for (size_t i = 0; i < p.size(); ++i) EXPECT_FLOAT_EQ(whole.weights[i], of_one[i]);
}

TEST_P(Experts, RouteOfATokenIsItsOwn) {
  constexpr int kExperts = 60, kUsed = 4, kTokens = 64;
  const auto logits = RandomFloats(kTokens * kExperts, 1, 3);
  const RouteMemory all = Route(table(), logits, kExperts, kUsed, true, 3);
  std::vector<int32_t> seen = all.sorted;
  std::sort(seen.begin(), seen.end());
  for (int i = 0; i < kTokens * kUsed; ++i) ASSERT_EQ(seen[static_cast<size_t>(i)], i) << "every row once";
  for (int t = 0; t < kTokens; ++t) {
    const std::vector<float> own(logits.begin() + t * kExperts, logits.begin() + (t + 1) * kExperts);
    const RouteMemory one = Route(table(), own, kExperts, kUsed, true, 1);
    for (size_t j = 0; j < kUsed; ++j) {
      const size_t at = static_cast<size_t>(t) * kUsed + j;
      EXPECT_EQ(ExpertOf(all, at), ExpertOf(one, j));
      EXPECT_EQ(all.weights[at], one.weights[j]);
      EXPECT_EQ(all.tokens[static_cast<size_t>(all.sorted[at])], t);
    }
  }
}

TEST_P(Experts, RouteRefusesWhatItHasNoRoomFor) {
  const std::vector<float> logits(kMaxExperts + 1);
  RouteMemory r(1, kMaxExperts + 1, kMaxExpertsUsed + 1);
  const std::unique_ptr<Stream> stream = MakeCpuStream(1);
  for (const auto& [experts, used] : {std::pair{kMaxExperts + 1, 2}, {64, kMaxExpertsUsed + 1}, {2, 3}, {4, 0}}) {
    EXPECT_FALSE(table().route(*stream, {logits.data(), r.View(), 1, experts, used, false}).ok());
  }
}

// Matrices of experts one behind the other, as a region of weights has them.
struct Stack {
  Stack(const OpTable& table, DType t, int experts, int64_t n, int64_t k, uint64_t seed)
      : stride(static_cast<int64_t>((table.packed_bytes(t, n, k) + 63) / 64 * 64)),
        bytes(AllocateAligned(static_cast<size_t>(stride * experts))),
        scale(RandomFloats(static_cast<size_t>(experts * n), seed + 1)),
        bias(RandomFloats(scale.size(), seed + 2)) {
    for (int e = 0; e < experts; ++e) {
      table.pack_rows(t, RandomWeight(t, n, k, seed + 10 + static_cast<uint64_t>(e)).data(), 0, n, n, k,
                      bytes.get() + e * stride);
    }
    view = {{bytes.get(), t, n, k, IsByte(t) ? scale.data() : nullptr, t == DType::kF32 ? bias.data() : nullptr},
            stride};
  }
  int64_t stride;
  AlignedBytes bytes;
  std::vector<float> scale, bias;
  ExpertWeights view;
};

// Each sorted row is what matmul makes of that row and its expert's matrix, to the bit, whoever is beside it.
TEST_P(Experts, MatmulIsThatOfEachRowWithItsExpert) {
  constexpr int kExperts = 5, kN = 96, kK = 64;
  for (const DType t : AllDTypes()) {
    const Stack a(table(), t, kExperts, kN, kK, 1), b(table(), t, kExperts, kN, kK, 50);
    const std::vector<int32_t> first = {0, 3, 3, 4, 21, 22};  // one has no rows, one has more than a tile
    const int rows = first.back();
    const auto x = RandomFloats(static_cast<size_t>(rows * kK), 3);
    QuantisedRows xq(x, rows, kK);
    const QuantisedActs acts = xq.View();
    const bool quantised = table().quantises(t);
    for (const int threads : {1, 3}) {
      std::vector<float> y(static_cast<size_t>(rows * kN), -1e30f), z = y;
      const std::unique_ptr<Stream> stream = MakeCpuStream(threads);
      ASSERT_TRUE(table()
                      .expert_matmul(*stream, {.x = quantised ? nullptr : x.data(),
                                               .xq = quantised ? &acts : nullptr,
                                               .parts = {{a.view, y.data()}, {b.view, z.data()}},
                                               .part_count = 2,
                                               .first = first.data(),
                                               .rows = rows,
                                               .k = kK,
                                               .experts = kExperts})
                      .ok());
      for (int e = 0; e < kExperts; ++e) {
        for (int64_t row = first[static_cast<size_t>(e)]; row < first[static_cast<size_t>(e) + 1]; ++row) {
          for (const auto& [stack, out] : {std::pair{&a, &y}, {&b, &z}}) {
            std::vector<float> alone(kN);
            const QuantisedActs own = {acts.q + row * kK, acts.scale + row * (kK / 32), acts.sum + row * (kK / 32)};
            ASSERT_TRUE(table()
                            .matmul(*stream, {.x = quantised ? nullptr : x.data() + row * kK,
                                              .xq = quantised ? &own : nullptr,
                                              .parts = {{WeightOf(stack->view, e), alone.data(), kN}},
                                              .part_count = 1,
                                              .tokens = 1,
                                              .k = kK})
                            .ok());
            SCOPED_TRACE(testing::Message() << Info(t).name << " expert " << e << " row " << row);
            ExpectSameBits(alone.data(), out->data() + row * kN, kN);
          }
        }
      }
    }
  }
}

TEST_P(Experts, JoinWeighsInTheOrderOfPlaces) {
  const std::vector<float> y = {1, 2, 10, 20, 100, 200, 1e8f, 0};
  const std::vector<float> weights = {0.5f, 0.25f, 1, 1};
  const std::vector<int32_t> sorted = {2, 0, 3, 1};
  std::vector<float> out(4, -1e30f);
  const std::unique_ptr<Stream> stream = MakeCpuStream(2);
  ASSERT_TRUE(table().join_experts(*stream, {y.data(), weights.data(), sorted.data(), out.data(), 2, 2, 2}).ok());
  EXPECT_EQ(out, (std::vector<float>{50.25f, 100.5f, 1e8f + 10, 20}));
}

std::vector<const OpTable*> RealTables() {
  std::vector<const OpTable*> tables = FastTables();
  tables.push_back(&RefTable());
  return tables;
}
INSTANTIATE_TEST_SUITE_P(Tables, Experts, testing::ValuesIn(RealTables()),
                         [](const auto& info) { return NameOf(*info.param); });

}  // namespace
}  // namespace shoal::ops
