#include "kernels/cuda/pool.h"

#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

using ops::Pooling;

struct Case {
  std::vector<int32_t> first, rows;
  int dim;
  Pooling pooling;
  bool normalise;
};
constexpr int kTokens = 40;

std::vector<float> OnDevice(const Case& c, const std::vector<float>& x) {
  Buffer<bf16> dx(x);
  Buffer<float> y(c.first.size() * static_cast<size_t>(c.dim));
  const Pool op = {dx.data(), c.first.data(), c.rows.data(), y.data(), static_cast<int>(c.first.size()),
                   c.dim,     c.pooling,      c.normalise};
  EXPECT_TRUE(Enqueue(nullptr, op).ok());
  return y.Floats();
}

// Rows of a sequence are few, as many as are on their way at once, and more.
TEST(CudaPool, AgreesWithTheReferenceAndASequenceAlone) {
  for (const int dim : {8, 384, 2056}) {
    for (const Pooling pooling : {Pooling::kFirst, Pooling::kLast, Pooling::kMean}) {
      for (const bool normalise : {false, true}) {
        SCOPED_TRACE(testing::Message() << dim << (normalise ? " normalised" : ""));
        const Case c = {{0, 1, 9, 20}, {1, 8, 9, 20}, dim, pooling, normalise};
        const auto x = RandomBf16(static_cast<size_t>(kTokens * dim), 1);
        std::vector<float> expected(4 * static_cast<size_t>(dim));
        const auto stream = ops::MakeCpuStream(1);
        ASSERT_TRUE(
            ops::RefTable()
                .pool(*stream, {x.data(), c.first.data(), c.rows.data(), expected.data(), 4, dim, pooling, normalise})
                .ok());
        const auto got = InEveryOrder<float>([&] { return OnDevice(c, x); });
        ops::ExpectRowsNear(expected, got, static_cast<size_t>(dim), 1e-5f);
        for (size_t s = 0; s < 4; ++s) {
          const std::vector<float> own(x.begin() + c.first[s] * dim, x.begin() + (c.first[s] + c.rows[s]) * dim);
          const auto alone = OnDevice({{0}, {c.rows[s]}, dim, pooling, normalise}, own);
          ops::ExpectSameBits(got.data() + s * static_cast<size_t>(dim), alone.data(), alone.size());
        }
      }
    }
  }
}

TEST(CudaPool, ARowOfZerosStaysAsItIs) {
  const auto y = OnDevice({{0}, {3}, 64, Pooling::kMean, true}, std::vector<float>(3 * 64, 0.0f));
  EXPECT_EQ(y, std::vector<float>(64, 0.0f));
}

TEST(CudaPool, RefusesAWidthThatIsNotInWholeVectors) {
  EXPECT_EQ(Enqueue(nullptr, Pool{nullptr, nullptr, nullptr, nullptr, 1, 12, Pooling::kMean, false}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Enqueue(nullptr, Pool{nullptr, nullptr, nullptr, nullptr, 0, 8, Pooling::kMean, false}).ok());
}

}  // namespace
}  // namespace shoal::cuda
