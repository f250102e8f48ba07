#include "kernels/cuda/library_gemm.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <vector>

namespace shoal::cuda {
namespace {

const void* At(uintptr_t address) { return reinterpret_cast<const void*>(address); }

const GemmScratch kNone;
const float* const kFactors = static_cast<const float*>(At(1 << 28));

GemmProduct Good() {
  return {.x = At(4096),
          .x_scale = nullptr,
          .w = At(1 << 20),
          .type = DType::kBF16,
          .w_scale = nullptr,
          .y = reinterpret_cast<void*>(uintptr_t{1} << 24),
          .f32_out = false,
          .y_stride = 4096,
          .tokens = 512,
          .n = 4096,
          .k = 4096};
}

TEST(LibraryGemm, TakesLargeProductsOfBf16) {
  EXPECT_TRUE(LibraryTakes(Good(), kNone));
  const std::vector<std::function<void(GemmProduct&)>> takes = {
      [](GemmProduct& p) { p.tokens = kLibraryTokens + 1; },
      [](GemmProduct& p) { p.n = 17; },
      [](GemmProduct& p) { p.k = 32; },
      [](GemmProduct& p) { p.x = At(4096 + 16); },
      [](GemmProduct& p) { p.f32_out = true, p.y_stride = 4100; },
  };
  for (size_t i = 0; i < takes.size(); ++i) {
    GemmProduct p = Good();
    takes[i](p);
    EXPECT_TRUE(LibraryTakes(p, kNone)) << i;
  }
  const std::vector<std::function<void(GemmProduct&)>> leaves = {
      [](GemmProduct& p) { p.tokens = kLibraryTokens; },
      [](GemmProduct& p) { p.n = 0; },
      [](GemmProduct& p) { p.w_scale = kFactors; },
      [](GemmProduct& p) { p.k = 100; },
      [](GemmProduct& p) { p.x = At(4096 + 8); },
      [](GemmProduct& p) { p.w = At(4096 + 2); },
      [](GemmProduct& p) { p.y = reinterpret_cast<void*>(uintptr_t{4100}); },
      [](GemmProduct& p) { p.y_stride = 4100; },
      [](GemmProduct& p) { p.f32_out = true, p.y_stride = 4098; },
  };
  for (size_t i = 0; i < leaves.size(); ++i) {
    GemmProduct p = Good();
    leaves[i](p);
    EXPECT_FALSE(LibraryTakes(p, kNone)) << i;
  }
  for (const DType type : {DType::kF32, DType::kF16, DType::kQ8_0, DType::kQ4_0, DType::kI8, DType::kI4}) {
    GemmProduct p = Good();
    p.type = type;
    EXPECT_FALSE(LibraryTakes(p, kNone)) << Info(type).name;
  }
}

GemmScratch ScratchOf(int64_t bytes, int64_t tokens) {
  GemmScratch s;
  s.bytes = bytes, s.tokens = tokens;
  return s;
}

TEST(LibraryGemm, TakesFp8WithAFactorForEachRowWhereXHasRoom) {
  const auto good = [] {
    GemmProduct p = Good();
    p.type = DType::kF8E4M3;
    p.w_scale = kFactors;
    return p;
  };
  const GemmScratch room = ScratchOf(kGemmScratchBytes, kGemmScratchTokens);
  EXPECT_TRUE(LibraryTakes(good(), room));
  EXPECT_FALSE(LibraryTakes(good(), kNone)) << "a device that does not multiply fp8";
  EXPECT_FALSE(LibraryTakes(good(), ScratchOf(127 * 4096, 1024)));
  EXPECT_FALSE(LibraryTakes(good(), ScratchOf(1 << 30, 127)));
  EXPECT_TRUE(LibraryTakes(good(), ScratchOf(128 * 4096, 128))) << "piece by piece";
  const std::vector<std::function<void(GemmProduct&)>> leaves = {
      [](GemmProduct& p) { p.w_scale = nullptr; },
      [](GemmProduct& p) { p.w_scale = kFactors + 2; },
      [](GemmProduct& p) { p.tokens = kLibraryTokens; },
      [](GemmProduct& p) { p.n = 4088; },
      [](GemmProduct& p) { p.k = 4088; },
      [](GemmProduct& p) { p.y_stride = 4100; },
      [](GemmProduct& p) { p.type = DType::kI8; },
  };
  for (size_t i = 0; i < leaves.size(); ++i) {
    GemmProduct p = good();
    leaves[i](p);
    EXPECT_FALSE(LibraryTakes(p, room)) << i;
  }
}

TEST(LibraryGemm, AsManyTokensGoAtOnceAsHaveRoom) {
  EXPECT_EQ(TokensAtOnce(ScratchOf(kGemmScratchBytes, kGemmScratchTokens), 4096), 16384);
  EXPECT_EQ(TokensAtOnce(ScratchOf(kGemmScratchBytes, kGemmScratchTokens), 32768), 2048);
  EXPECT_EQ(TokensAtOnce(ScratchOf(1000 * 96, 16384), 96), 896);
  EXPECT_EQ(TokensAtOnce(ScratchOf(1000 * 96, 300), 96), 256);
  EXPECT_EQ(TokensAtOnce(kNone, 96), 0);
}

TEST(LibraryGemm, BucketsAreEighthsOfAnOctave) {
  EXPECT_EQ(TokenBucket(64), 64);
  EXPECT_EQ(TokenBucket(65), 72);
  EXPECT_EQ(TokenBucket(72), 72);
  EXPECT_EQ(TokenBucket(127), 128);
  EXPECT_EQ(TokenBucket(129), 144);
  EXPECT_EQ(TokenBucket(8191), 8192);
  std::set<int64_t> buckets;
  for (int64_t t = 1; t <= 8192; ++t) {
    const int64_t bucket = TokenBucket(t);
    EXPECT_GE(bucket, t);
    EXPECT_LE((bucket - t) * 8, t) << t;
    EXPECT_GE(bucket, TokenBucket(t - 1));
    EXPECT_EQ(TokenBucket(bucket), bucket);
    if (t > 1024) buckets.insert(bucket);
  }
  EXPECT_EQ(buckets.size(), 24u) << "three octaves";
}

}  // namespace
}  // namespace shoal::cuda
