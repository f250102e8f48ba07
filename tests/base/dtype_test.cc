#include "common/base/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

namespace shoal {
namespace {

TEST(Float16, EveryValueSurvivesTheRoundTrip) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const auto half = static_cast<uint16_t>(h);
    const float f = F16ToF32(half);
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(F16ToF32(F32ToF16(f))));
    } else {
      ASSERT_EQ(F32ToF16(f), half) << h;
    }
  }
}

TEST(Float16, MatchesTheCompilersConversion) {
  for (uint32_t x = 0; x < 0xFFFFFFFFu - 9973; x += 9973) {
    const float f = std::bit_cast<float>(x);
    if (std::isnan(f)) continue;
    ASSERT_EQ(F32ToF16(f), std::bit_cast<uint16_t>(static_cast<_Float16>(f))) << x;
  }
}

TEST(BFloat16, RoundsToNearestEven) {
  EXPECT_EQ(F32ToBF16(1.0f), 0x3F80);
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x3F808000u)), 0x3F80);  // halfway, even below
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x3F818000u)), 0x3F82);  // halfway, even above
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x3F808001u)), 0x3F81);
  EXPECT_TRUE(std::isnan(BF16ToF32(F32ToBF16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_EQ(BF16ToF32(F32ToBF16(-std::numeric_limits<float>::infinity())), -std::numeric_limits<float>::infinity());
}

TEST(DType, NamesGoBothWays) {
  for (DType t : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1}) {
    EXPECT_EQ(DTypeFromName(Info(t).name), t);
  }
  EXPECT_EQ(DTypeFromName("q9_9"), std::nullopt);
}

TEST(DType, RowBytesCountsBlocks) {
  EXPECT_EQ(RowBytes(DType::kF32, 3), 12u);
  EXPECT_EQ(RowBytes(DType::kQ8_0, 64), 68u);
  EXPECT_EQ(RowBytes(DType::kQ4_1, 576), 360u);
  EXPECT_DEATH(RowBytes(DType::kQ4_0, 33), "check failed");
}

TEST(Dequantise, FollowsTheBlockFormulas) {
  BlockQ8_0 q8{F32ToF16(0.5f), {}};
  q8.q[0] = -128, q8.q[31] = 127;
  std::vector<float> out(32);
  DequantiseRow(DType::kQ8_0, &q8, 32, out.data());
  EXPECT_EQ(out[0], -64.0f);
  EXPECT_EQ(out[31], 63.5f);

  BlockQ4_0 q4{F32ToF16(2.0f), {}};
  q4.q[3] = 0xF1;
  DequantiseRow(DType::kQ4_0, &q4, 32, out.data());
  EXPECT_EQ(out[3], 2.0f * (1 - 8));
  EXPECT_EQ(out[19], 2.0f * (15 - 8));
  EXPECT_EQ(out[0], -16.0f);

  BlockQ4_1 q41{F32ToF16(2.0f), F32ToF16(-3.0f), {}};
  q41.q[15] = 0x5A;
  DequantiseRow(DType::kQ4_1, &q41, 32, out.data());
  EXPECT_EQ(out[15], 2.0f * 10 - 3);
  EXPECT_EQ(out[31], 2.0f * 5 - 3);
}

}  // namespace
}  // namespace shoal
