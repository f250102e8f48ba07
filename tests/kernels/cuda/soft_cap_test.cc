#include "kernels/cuda/soft_cap.h"

#include <cmath>

#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

std::vector<float> OnDevice(const std::vector<float>& logits, float scale, float cap) {
  Buffer<float> y(logits);
  EXPECT_TRUE(Enqueue(nullptr, ops::SoftCapArgs{y.data(), static_cast<int64_t>(logits.size()), scale, cap}).ok());
  return y.Floats();
}

// The end of the last block is nobody's, and what follows the logits is left alone.
TEST(CudaSoftCap, AgreesWithTheReference) {
  for (const size_t count : {size_t{1}, size_t{255}, size_t{256}, size_t{1003}}) {
    auto logits = ops::RandomFloats(count, 1, 40);
    for (const auto& [scale, cap] : {std::pair{1.0f, 30.0f}, {0.577f, 5.0f}, {0.25f, 0.0f}}) {
      std::vector<float> expected = logits;
      const auto stream = ops::MakeCpuStream(1);
      ASSERT_TRUE(ops::RefTable().soft_cap(*stream, {expected.data(), static_cast<int64_t>(count), scale, cap}).ok());
      const auto got = InEveryOrder<float>([&, s = scale, c = cap] { return OnDevice(logits, s, c); });
      for (size_t i = 0; i < count; ++i) EXPECT_NEAR(got[i], expected[i], 1e-6f * std::fabs(expected[i])) << logits[i];
    }
  }
}

TEST(CudaSoftCap, WritesNothingBeyondItsCount) {
  Buffer<float> y(ops::RandomFloats(300, 1));
  const auto before = y.Floats();
  ASSERT_TRUE(Enqueue(nullptr, ops::SoftCapArgs{y.data(), 270, 1, 2}).ok());
  const auto after = y.Floats();
  EXPECT_NE(before[269], after[269]);
  ops::ExpectSameBits(before.data() + 270, after.data() + 270, 30);
  EXPECT_TRUE(Enqueue(nullptr, ops::SoftCapArgs{nullptr, 0, 1, 2}).ok());
}

TEST(CudaSoftCap, EndsAreTheCap) {
  const float inf = std::numeric_limits<float>::infinity();
  const auto got = OnDevice({inf, -inf, 1e30f, NAN}, 1, 30);
  EXPECT_EQ(got[0], 30);
  EXPECT_EQ(got[1], -30);
  EXPECT_EQ(got[2], 30);
  EXPECT_TRUE(std::isnan(got[3]));
}

}  // namespace
}  // namespace shoal::cuda
