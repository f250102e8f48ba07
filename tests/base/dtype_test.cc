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

// What a code says, from the definition.
double ValueOfF8(int code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa / 8.0, -6) : std::ldexp(1 + mantissa / 8.0, exponent - 7);
  return code < 128 ? magnitude : -magnitude;
}
// The nearest finite code; of two as near, the even one. Beyond the largest, the largest.
uint8_t NearestF8(double x) {
  int best = 0;
  for (int code = 0; code < 127; ++code) {
    const double error = std::abs(std::abs(x) - ValueOfF8(code)), least = std::abs(std::abs(x) - ValueOfF8(best));
    if (error < least || (error == least && code % 2 == 0)) best = code;
  }
  return static_cast<uint8_t>(std::signbit(x) ? best | 128 : best);
}

TEST(Float8, EveryCodeIsItsDefinitionAndSurvivesTheRoundTrip) {
  for (int code = 0; code < 256; ++code) {
    const float f = F8E4M3ToF32(static_cast<uint8_t>(code));
    EXPECT_EQ(std::signbit(f), code >= 128) << code;
    if (code % 128 == 127) {
      EXPECT_TRUE(std::isnan(f)) << code;
    } else {
      EXPECT_EQ(f, ValueOfF8(code)) << code;
    }
    EXPECT_EQ(F32ToF8E4M3(f), code);
  }
  EXPECT_EQ(F8E4M3ToF32(0x7E), 448.0f);
  EXPECT_EQ(F8E4M3ToF32(0x01), 0x1p-9f);
}

// Around every code and every middle between two: the place where a wrong rounding shows.
TEST(Float8, RoundsToTheNearestCodeOrTheEvenOne) {
  const auto check = [](float f) {
    for (const float x : {f, std::nextafter(f, INFINITY), std::nextafter(f, -INFINITY)}) {
      ASSERT_EQ(F32ToF8E4M3(x), NearestF8(x)) << x;
      ASSERT_EQ(F32ToF8E4M3(-x), NearestF8(-x)) << -x;
    }
  };
  for (int code = 0; code < 127; ++code) {
    check(static_cast<float>(ValueOfF8(code)));
    check(static_cast<float>((ValueOfF8(code) + ValueOfF8(code + 1)) / 2));
  }
  for (uint32_t x = 0; x < 0x7F800000u; x += 99991) ASSERT_NO_FATAL_FAILURE(check(std::bit_cast<float>(x)));
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(F32ToF8E4M3(infinity), 0x7E);
  EXPECT_EQ(F32ToF8E4M3(-infinity), 0xFE);
  EXPECT_EQ(F32ToF8E4M3(std::numeric_limits<float>::max()), 0x7E);
  EXPECT_EQ(F32ToF8E4M3(0x1p-149f), 0);
  EXPECT_EQ(F32ToF8E4M3(std::numeric_limits<float>::quiet_NaN()) & 0x7F, 0x7F);
}

TEST(DType, NamesGoBothWays) {
  for (int i = 0; i < kDTypes; ++i) {
    const auto t = static_cast<DType>(i);
    EXPECT_EQ(DTypeFromName(Info(t).name), t);
  }
  EXPECT_EQ(DTypeFromName("fp8"), DType::kF8E4M3);
  EXPECT_EQ(DTypeFromName("int8"), DType::kI8);
  EXPECT_EQ(DTypeFromName("int4"), DType::kI4);
  EXPECT_EQ(DTypeFromName("q9_9"), std::nullopt);
}

TEST(DType, RowBytesCountsBlocks) {
  EXPECT_EQ(RowBytes(DType::kF32, 3), 12u);
  EXPECT_EQ(RowBytes(DType::kQ8_0, 64), 68u);
  EXPECT_EQ(RowBytes(DType::kQ4_1, 576), 360u);
  EXPECT_EQ(RowBytes(DType::kF8E4M3, 33), 33u);
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

TEST(Dequantise, AGroupOfFourBitsHasAZeroPoint) {
  BlockI4 b{F32ToF16(0.5f), 16, {}};
  b.q[2] = 0xF1;
  std::vector<float> out(32);
  DequantiseRow(DType::kI4, &b, 32, out.data());
  EXPECT_EQ(out[2], 0.5f * (1 - 16));
  EXPECT_EQ(out[18], 0.5f * (15 - 16));
  EXPECT_EQ(out[0], -8.0f);
  const BlockQ8_0 same = WithoutZeroPoint(b);
  std::vector<float> again(32);
  DequantiseRow(DType::kQ8_0, &same, 32, again.data());
  EXPECT_EQ(out, again);
}

TEST(Dequantise, BytesAreWholeNumbersOrFp8) {
  const uint8_t bytes[] = {0x80, 0x7F, 0x00, 0xFF};
  float out[4];
  DequantiseRow(DType::kI8, bytes, 4, out);
  EXPECT_EQ(out[0], -128.0f);
  EXPECT_EQ(out[1], 127.0f);
  EXPECT_EQ(out[2], 0.0f);
  EXPECT_EQ(out[3], -1.0f);
  const uint8_t codes[] = {0x38, 0xFE};
  DequantiseRow(DType::kF8E4M3, codes, 2, out);
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_EQ(out[1], -448.0f);
}

}  // namespace
}  // namespace shoal
