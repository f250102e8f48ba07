#include "kernels/cuda/quantise_rows.h"

#include <limits>

#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Quantised {
  std::vector<uint8_t> codes;
  std::vector<float> scales;
};

Quantised OnDevice(const std::vector<float>& x, int dim) {
  const int tokens = static_cast<int>(x.size()) / dim;
  Buffer<bf16> dx(x);
  Buffer<uint8_t> codes(x.size());
  Buffer<float> scales(static_cast<size_t>(tokens));
  EXPECT_TRUE(Enqueue(nullptr, QuantiseRows{dx.data(), codes.data(), scales.data(), tokens, dim}).ok());
  return {{codes.data(), codes.data() + codes.size()}, scales.Floats()};
}

// The definition, in the header's words.
Quantised Naive(const std::vector<float>& x, int dim) {
  Quantised q;
  for (size_t t = 0; t < x.size() / static_cast<size_t>(dim); ++t) {
    const float* row = x.data() + t * static_cast<size_t>(dim);
    float largest = 0;
    for (int i = 0; i < dim; ++i) largest = std::max(largest, std::abs(row[i]));
    const float scale = largest / 448 < std::numeric_limits<float>::min() ? 1 : largest / 448;
    q.scales.push_back(scale);
    for (int i = 0; i < dim; ++i) q.codes.push_back(F32ToF8E4M3(row[i] * (1 / scale)));
  }
  return q;
}

TEST(CudaQuantiseRows, IsItsDefinitionInEveryOrderOfThreads) {
  for (const int dim : {8, 16, 32, 576, 4096, 8200}) {
    SCOPED_TRACE(testing::Message() << dim);
    for (const float deviation : {1e-30f, 0.02f, 1e3f}) {
      const auto x = RandomBf16(size_t{3} * dim, 1, deviation);
      const Quantised wanted = Naive(x, dim);
      EXPECT_EQ(InEveryOrder<uint8_t>([&] { return OnDevice(x, dim).codes; }), wanted.codes);
      ops::ExpectSameBits(wanted.scales, OnDevice(x, dim).scales);
    }
  }
}

TEST(CudaQuantiseRows, TheLargestIs448AndTheRestIsNear) {
  constexpr int kDim = 512;
  const auto x = RandomBf16(4 * kDim, 2);
  const Quantised q = OnDevice(x, kDim);
  for (size_t t = 0; t < 4; ++t) {
    float largest = 0;
    for (size_t i = t * kDim; i < (t + 1) * kDim; ++i) {
      const float code = F8E4M3ToF32(q.codes[i]);
      largest = std::max(largest, std::abs(code));
      // Half a unit: 2^-4 of a number, or 2^-10 where those below 2^-6 begin.
      EXPECT_NEAR(code * q.scales[t], x[i], std::max(std::abs(x[i]) / 16, q.scales[t] * 0x1p-10f) * 1.0001f);
    }
    EXPECT_EQ(largest, 448);
  }
}

TEST(CudaQuantiseRows, ZerosAndWhatIsTooSmallAreZeros) {
  std::vector<float> x(3 * 32);
  for (size_t i = 32; i < 64; ++i) x[i] = 0x1p-133f;  // subnormal: no scale would be exact
  x[64] = -0.0f;
  const Quantised q = OnDevice(x, 32);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(q.codes[i] & 127, 0) << i;
  for (const float scale : q.scales) EXPECT_EQ(scale, 1);
}

TEST(CudaQuantiseRows, WhatIsNotANumberShowsAndHarmsNoOther) {
  constexpr int kDim = 96;
  auto x = RandomBf16(4 * kDim, 3);
  const Quantised before = OnDevice(x, kDim);
  x[kDim + 5] = std::numeric_limits<float>::quiet_NaN();
  x[2 * kDim + 95] = -kInfinity;
  const Quantised after = OnDevice(x, kDim);
  for (size_t i = 0; i < x.size(); ++i) {
    if (i / kDim == 1 || i / kDim == 2) continue;
    EXPECT_EQ(after.codes[i], before.codes[i]) << i;
  }
  EXPECT_TRUE(std::isnan(F8E4M3ToF32(after.codes[kDim + 5])));
  EXPECT_FALSE(std::isnan(F8E4M3ToF32(after.codes[kDim + 6])));
  EXPECT_TRUE(std::isnan(F8E4M3ToF32(after.codes[2 * kDim + 95])));
  EXPECT_EQ(after.scales[2], kInfinity);
}

TEST(CudaQuantiseRows, ARowAloneIsTheRowAmongOthers) {
  constexpr int kDim = 320;
  const auto x = RandomBf16(7 * kDim, 4);
  const Quantised all = OnDevice(x, kDim);
  for (size_t t = 0; t < 7; ++t) {
    const auto row = x.begin() + static_cast<int64_t>(t) * kDim;
    const Quantised alone = OnDevice({row, row + kDim}, kDim);
    EXPECT_TRUE(std::equal(alone.codes.begin(), alone.codes.end(), all.codes.begin() + static_cast<int64_t>(t) * kDim));
    ops::ExpectSameBits(&all.scales[t], alone.scales.data(), 1);
  }
}

TEST(CudaQuantiseRows, OddWidthsAreRefused) {
  EXPECT_EQ(Enqueue(nullptr, QuantiseRows{nullptr, nullptr, nullptr, 1, 12}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Enqueue(nullptr, QuantiseRows{nullptr, nullptr, nullptr, 0, 12}).ok()) << "no tokens";
}

}  // namespace
}  // namespace shoal::cuda
