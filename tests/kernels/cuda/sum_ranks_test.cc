// What a stage's ranks do with each other's data: sum_ranks and place_columns.
#include "kernels/cuda/sum_ranks.h"

#include "kernels/cuda/place_columns.h"
#include "kernels/ops/sum_ranks.h"
#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

// The definition: in f32, in rank order, rounded once.
std::vector<float> Expected(const std::vector<float>& parts, int ranks, int64_t stride, int64_t count, bool backwards) {
  std::vector<float> y(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    float sum = parts[static_cast<size_t>((backwards ? ranks - 1 : 0) * stride + i)];
    for (int r = 1; r < ranks; ++r) sum += parts[static_cast<size_t>((backwards ? ranks - 1 - r : r) * stride + i)];
    y[static_cast<size_t>(i)] = BF16ToF32(F32ToBF16(sum));
  }
  return y;
}

// The first two ranks nearly cancel out at first, and leave little of the others when they come last: the order of a
// sum shows even after rounding to bf16.
std::vector<float> Parts(int ranks, int64_t stride) {
  const auto row = static_cast<size_t>(stride);
  std::vector<float> x = RandomBf16(static_cast<size_t>(ranks) * row, 5);
  for (size_t i = 0; i < row && ranks > 2; ++i) {
    x[i] = std::ldexp(x[i], 22);
    x[row + i] = -x[i];
  }
  return x;
}

TEST(CudaSumRanks, SumsInRankOrderAndRoundsOnce) {
  struct Case {
    int ranks;
    int64_t stride, count;
    int shift;  // of y, in elements: 1 is not aligned
  };
  for (const Case& c : {Case{1, 8, 8, 0}, Case{2, 16, 13, 0}, Case{3, 4104, 4100, 0}, Case{4, 2049, 2049, 0},
                        Case{5, 2056, 2056, 1}, Case{8, 5000, 4999, 0}}) {
    SCOPED_TRACE(testing::Message() << c.ranks << " ranks, stride " << c.stride << ", count " << c.count);
    const auto parts = Parts(c.ranks, c.stride);
    const auto count = static_cast<size_t>(c.count), shift = static_cast<size_t>(c.shift);
    const auto got = InEveryOrder<float>([&] {
      Buffer<bf16> x(parts), y(count + shift + 1);
      EXPECT_TRUE(Enqueue(nullptr, SumRanks{x.data(), c.stride, y.data() + shift, c.count, c.ranks}).ok());
      return y.Floats();
    });
    const auto expected = Expected(parts, c.ranks, c.stride, c.count, false);
    ops::ExpectSameBits(expected.data(), got.data() + shift, count);
    EXPECT_TRUE(std::isnan(got[count + shift])) << "wrote beyond the end";
    if (c.ranks > 2) {
      EXPECT_NE(expected, Expected(parts, c.ranks, c.stride, c.count, true));
    }
  }
}

TEST(CudaSumRanks, RefusesPartsThatOverlap) {
  EXPECT_EQ(Enqueue(nullptr, SumRanks{nullptr, 8, nullptr, 16, 2}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Enqueue(nullptr, SumRanks{nullptr, 8, nullptr, 8, 0}).code(), absl::StatusCode::kInvalidArgument);
}

TEST(CudaPlaceColumns, PutsColumnsWhereTheyBelongAndTouchesNothingElse) {
  for (const int width : {1, 96, 1000}) {
    constexpr int kRows = 3, kBefore = 5, kAfter = 2;
    const int stride = kBefore + width + kAfter;
    const auto x = ops::RandomFloats(static_cast<size_t>(kRows * width), 2);
    const auto got = InEveryOrder<float>([&] {
      std::vector<float> y(static_cast<size_t>(kRows * stride), -1.0f);
      EXPECT_TRUE(Enqueue(nullptr, ops::PlaceColumnsArgs{x.data(), y.data() + kBefore, stride, kRows, width}).ok());
      return y;
    });
    for (int row = 0; row < kRows; ++row) {
      for (int c = 0; c < stride; ++c) {
        const bool theirs = c < kBefore || c >= kBefore + width;
        const float expected = theirs ? -1.0f : x[static_cast<size_t>(row * width + c - kBefore)];
        ASSERT_EQ(got[static_cast<size_t>(row * stride + c)], expected) << row << " " << c;
      }
    }
  }
}

}  // namespace
}  // namespace shoal::cuda
