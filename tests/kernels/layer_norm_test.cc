#include "kernels/ops/layer_norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/ops/backends.h"
#include "tests/kernels/kernel_test_util.h"

namespace shoal::ops {
namespace {

class LayerNormTest : public testing::TestWithParam<const OpTable*> {
 protected:
  const OpTable& table() const { return *GetParam(); }
};

// Rows far from zero: a variance from the difference of two sums would be lost there.
std::vector<float> Rows(int tokens, int dim, uint64_t seed) {
  std::vector<float> x = RandomFloats(static_cast<size_t>(tokens * dim), seed);
  for (int t = 0; t < tokens; ++t) {
    for (int i = 0; i < dim; ++i) x[static_cast<size_t>(t * dim + i)] += static_cast<float>(100 * t);
  }
  return x;
}

TEST_P(LayerNormTest, AgreesWithTheReference) {
  for (const int dim : {2, 13, 64, 576}) {
    constexpr int kTokens = 5;
    const auto size = static_cast<size_t>(dim * kTokens);
    const auto x = Rows(kTokens, dim, 1), add = RandomFloats(size, 2), w = RandomFloats(static_cast<size_t>(dim), 3),
               bias = RandomFloats(static_cast<size_t>(dim), 4);
    for (const bool full : {false, true}) {
      auto x1 = x, x2 = x;
      std::vector<float> y1(size), y2(size);
      const std::unique_ptr<Stream> stream = MakeCpuStream(2);
      LayerNormArgs a = {
          x1.data(), full ? add.data() : nullptr, w.data(), full ? bias.data() : nullptr, y1.data(), kTokens, dim,
          1e-5f};
      ASSERT_TRUE(RefTable().layer_norm(*stream, a).ok());
      a.x = x2.data();
      a.y = y2.data();
      ASSERT_TRUE(table().layer_norm(*stream, a).ok());
      ExpectSameBits(x1, x2);
      EXPECT_EQ(x1 != x, full);
      // 400 and its differences in f32: 400 * 2^-24 of a deviation of 1.
      ExpectRowsNear(y1, y2, static_cast<size_t>(dim), dim == 2 ? 1e-3f : 1e-4f);
    }
  }
}

TEST_P(LayerNormTest, WithoutWeightOnlyJoins) {
  auto x = RandomFloats(100, 1);
  const auto before = x, add = RandomFloats(100, 2);
  const std::unique_ptr<Stream> stream = MakeCpuStream(1);
  ASSERT_TRUE(table().layer_norm(*stream, {x.data(), add.data(), nullptr, nullptr, nullptr, 2, 50, 1e-5f}).ok());
  for (size_t i = 0; i < 100; ++i) EXPECT_EQ(x[i], before[i] + add[i]);
}

TEST_P(LayerNormTest, ARowAloneIsTheRowAmongOthers) {
  constexpr int kTokens = 64, kDim = 579;
  auto x = Rows(kTokens, kDim, 5);
  const auto w = RandomFloats(kDim, 6), bias = RandomFloats(kDim, 7);
  std::vector<float> all(x.size()), alone(x.size());
  for (const int threads : {1, 3}) {
    const std::unique_ptr<Stream> stream = MakeCpuStream(threads);
    ASSERT_TRUE(
        table().layer_norm(*stream, {x.data(), nullptr, w.data(), bias.data(), all.data(), kTokens, kDim, 1e-5f}).ok());
    for (int t = 0; t < kTokens; ++t) {
      ASSERT_TRUE(table()
                      .layer_norm(*stream, {x.data() + t * kDim, nullptr, w.data(), bias.data(),
                                            alone.data() + t * kDim, 1, kDim, 1e-5f})
                      .ok());
    }
    ExpectSameBits(alone, all);
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, LayerNormTest, testing::ValuesIn(FastTables()),
                         [](const auto& table) { return NameOf(*table.param); });

TEST(LayerNorm, TheReferenceIsTheFormula) {
  std::vector<float> x = {1, 2, 3, 6}, y(4);
  const std::vector<float> w = {1, 1, 2, 1}, bias = {0, 10, 0, 0};
  const std::unique_ptr<Stream> stream = MakeCpuStream(1);
  ASSERT_TRUE(RefTable().layer_norm(*stream, {x.data(), nullptr, w.data(), bias.data(), y.data(), 1, 4, 0.5f}).ok());
  // Mean 3, variance 3.5.
  EXPECT_EQ(y, (std::vector<float>{-1, 9.5f, 0, 1.5f}));
}

TEST(LayerNorm, TheNullBackendKeepsItsInteger) {
  std::vector<float> x = {7, 1, 5, 1}, add = {3, 0, 1, 0}, y(4, 9), w(2, 1);
  const std::unique_ptr<Stream> stream = MakeCpuStream(1);
  const OpTable& null = *FindOpTable("null").value();
  ASSERT_TRUE(null.layer_norm(*stream, {x.data(), add.data(), w.data(), nullptr, y.data(), 2, 2, 1e-5f}).ok());
  EXPECT_EQ(y, (std::vector<float>{10, 0, 6, 0}));
}

}  // namespace
}  // namespace shoal::ops
