#include "kernels/cuda/linear.h"

#include <limits>

#include "kernels/cuda/linear_schedule.h"
#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// A weight on the device, and its values.
struct DeviceWeight {
  DType type;
  int n, k;
  Buffer<uint8_t> packed;
  std::vector<float> values;  // [n, k]

  DeviceWeight(DType t, int rows, int columns, const std::vector<uint8_t>& canonical)
      : type(t),
        n(rows),
        k(columns),
        packed(LinearBytes(t, rows, columns)),
        values(static_cast<size_t>(rows) * columns) {
    PackLinear(t, canonical.data(), 0, n, k, packed.data());
    DequantiseRow(t, canonical.data(), static_cast<int64_t>(values.size()), values.data());
  }
  DeviceWeight(DType t, int rows, int columns, uint64_t seed)
      : DeviceWeight(t, rows, columns, ops::RandomWeight(t, rows, columns, seed)) {}
};

class CudaLinear : public testing::TestWithParam<DType> {};

// y [tokens, n] in f32.
std::vector<float> Multiply(DeviceWeight& w, const std::vector<float>& x, int tile = -1) {
  const int tokens = static_cast<int>(x.size()) / w.k;
  Buffer<bf16> dx(x);
  Buffer<float> y(static_cast<size_t>(tokens) * w.n);
  const Linear op = {dx.data(), {{w.packed.data(), w.type, w.n, nullptr, y.data(), w.n}}, 1, tokens, w.k, tile};
  EXPECT_TRUE(Enqueue(nullptr, op).ok());
  return y.Floats();
}

std::vector<float> InDouble(const DeviceWeight& w, const std::vector<float>& x) {
  const size_t k = static_cast<size_t>(w.k), n = static_cast<size_t>(w.n);
  std::vector<float> y;
  for (size_t t = 0; t < x.size() / k; ++t) {
    for (size_t r = 0; r < n; ++r) {
      double sum = 0;
      for (size_t i = 0; i < k; ++i) sum += static_cast<double>(x[t * k + i]) * w.values[r * k + i];
      y.push_back(static_cast<float>(sum));
    }
  }
  return y;
}

// The rounding of sums is all that differs: the products are exact.
constexpr float kTolerance = 3e-6f;

TEST_P(CudaLinear, AgreesWithSumsInDouble) {
  struct Shape {
    int n, k, tokens;
  };
  for (const Shape& s : {Shape{2, 32, 1}, {16, 64, 3}, {33, 96, 8}, {40, 576, 9}, {7, 1120, 20}, {150, 160, 35}}) {
    SCOPED_TRACE(testing::Message() << s.n << " x " << s.k << ", " << s.tokens << " tokens");
    DeviceWeight w(GetParam(), s.n, s.k, 1);
    const auto x = RandomBf16(static_cast<size_t>(s.tokens) * s.k, 2);
    ops::ExpectRowsNear(InDouble(w, x), Multiply(w, x), static_cast<size_t>(s.n), kTolerance);
  }
}

// The reference's own plain product, on weights that it reads as f32.
TEST_P(CudaLinear, AgreesWithTheReference) {
  constexpr int kN = 48, kK = 320, kTokens = 5;
  DeviceWeight w(GetParam(), kN, kK, 3);
  const auto x = RandomBf16(kTokens * kK, 4);
  std::vector<float> y(kTokens * kN);
  ops::MatmulArgs args{};
  args.x = x.data();
  args.parts[0] = {{w.values.data(), DType::kF32, kN, kK}, y.data(), kN};
  args.part_count = 1;
  args.tokens = kTokens;
  args.k = kK;
  ASSERT_TRUE(ops::RefTable().matmul(*ops::MakeCpuStream(1), args).ok());
  ops::ExpectRowsNear(y, Multiply(w, x), kN, kTolerance);
}

TEST_P(CudaLinear, IsTheSameInEveryOrderOfThreadsOnEveryTile) {
  DeviceWeight w(GetParam(), 35, 672, 5);
  const auto x = RandomBf16(10 * 672, 6);
  for (int tile = 0; tile < linear::kTileCount; ++tile) {
    if (!linear::HasTile(GetParam(), tile)) continue;
    SCOPED_TRACE(testing::Message() << "tile " << tile);
    ops::ExpectRowsNear(InDouble(w, x), InEveryOrder<float>([&] { return Multiply(w, x, tile); }), 35, kTolerance);
  }
}

// 33 blocks of k: 17 steps, the last of them half, in six slices.
TEST_P(CudaLinear, EveryTileGivesTheBitsOfATokenAlone) {
  constexpr int kN = 140, kK = 1056, kTokens = 70;
  DeviceWeight w(GetParam(), kN, kK, 7);
  const auto x = RandomBf16(kTokens * kK, 8);
  const auto all = Multiply(w, x, 1);
  for (int tile = 0; tile < linear::kTileCount; ++tile) {
    if (!linear::HasTile(GetParam(), tile)) continue;
    SCOPED_TRACE(testing::Message() << "tile " << tile);
    ops::ExpectSameBits(all, Multiply(w, x, tile));
  }
  for (const int t : {0, 1, 7, 8, 63, 69}) {
    const auto alone = Multiply(w, {x.begin() + t * kK, x.begin() + (t + 1) * kK});
    ops::ExpectSameBits(all.data() + t * kN, alone.data(), kN);
  }
}

TEST_P(CudaLinear, ChunksOfTokensGiveTheBitsOfTheWhole) {
  constexpr int kN = 24, kK = 544, kTokens = 40;
  DeviceWeight w(GetParam(), kN, kK, 9);
  const auto x = RandomBf16(kTokens * kK, 10);
  const auto whole = Multiply(w, x);
  for (const int chunk : {1, 5, 17, 33}) {
    for (int t = 0; t < kTokens; t += chunk) {
      const int end = std::min(t + chunk, kTokens);
      const auto part = Multiply(w, {x.begin() + t * kK, x.begin() + end * kK});
      ops::ExpectSameBits(whole.data() + t * kN, part.data(), part.size());
    }
  }
}

// The largest codes with one sign: what is not exact in bf16, or saturates, shows.
TEST_P(CudaLinear, ExtremeCodesAreExact) {
  const bool byte = IsByte(GetParam());
  if (!IsQuantised(GetParam()) && !byte) GTEST_SKIP() << "has no codes";
  constexpr int kN = 17, kK = 64;
  for (const uint8_t code : {uint8_t{0xFF}, uint8_t{0x7F}, uint8_t{0x80}, uint8_t{0x81}, uint8_t{0x00}}) {
    if (GetParam() == DType::kF8E4M3 && (code & 127) == 127) continue;  // not a number
    auto canonical = ops::RandomWeight(GetParam(), kN, kK, 11);
    const size_t block = Info(GetParam()).block_bytes, codes = byte ? 1 : GetParam() == DType::kQ8_0 ? 32 : 16;
    const size_t header = block - codes;
    for (size_t i = 0; i < canonical.size(); ++i) {
      if (i % block >= header) canonical[i] = code;
    }
    DeviceWeight w(GetParam(), kN, kK, canonical);
    const std::vector<float> x(kK, 3);
    const auto expected = InDouble(w, x), got = Multiply(w, x);
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(got[i], expected[i], 1e-6 * std::abs(expected[i]) + 1e-30) << "code " << int{code};
    }
  }
}

// Each code in each place, seen through an x that is one column of the identity.
TEST_P(CudaLinear, EachColumnMeetsItsOwn) {
  constexpr int kN = 19, kK = 96;
  DeviceWeight w(GetParam(), kN, kK, 12);
  std::vector<float> identity(kK * kK);
  for (size_t i = 0; i < kK; ++i) identity[i * kK + i] = 1;
  const auto y = Multiply(w, identity);
  for (size_t t = 0; t < kK; ++t) {
    for (size_t r = 0; r < kN; ++r) {
      const float value = w.values[r * kK + t];
      if (GetParam() == DType::kQ4_1) {
        EXPECT_NEAR(y[t * kN + r], value, 1e-5) << "column " << t << " row " << r;
      } else {
        EXPECT_EQ(y[t * kN + r], value) << "column " << t << " row " << r;
      }
    }
  }
}

TEST_P(CudaLinear, ATokenThatIsNotANumberShowsAndHarmsNoOther) {
  constexpr int kN = 20, kK = 128, kTokens = 9;
  DeviceWeight w(GetParam(), kN, kK, 13);
  auto x = RandomBf16(kTokens * kK, 14);
  const auto before = Multiply(w, x);
  x[3 * kK + 77] = kNan;
  const auto after = Multiply(w, x);
  for (size_t i = 0; i < after.size(); ++i) {
    if (i / kN == 3) {
      EXPECT_TRUE(std::isnan(after[i])) << i;
    } else {
      EXPECT_EQ(after[i], before[i]) << i;
    }
  }
}

// Rounded before and after, in either type of result.
TEST_P(CudaLinear, ARowsScaleMultipliesItsSum) {
  constexpr int kN = 37, kK = 96, kTokens = 9;
  DeviceWeight w(GetParam(), kN, kK, 16);
  const auto x = RandomBf16(kTokens * kK, 17);
  Buffer<float> scale(ops::RandomFloats(kN, 18));
  std::vector<float> expected = Multiply(w, x);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] *= scale.data()[i % kN];
  Buffer<bf16> dx(x);
  for (int tile = 0; tile < linear::kTileCount; ++tile) {
    if (!linear::HasTile(GetParam(), tile)) continue;
    SCOPED_TRACE(testing::Message() << "tile " << tile);
    Buffer<float> wide(expected.size());
    Buffer<bf16> narrow(expected.size());
    for (const bool f32 : {true, false}) {
      const LinearPart part = {
          w.packed.data(), w.type, kN, f32 ? nullptr : narrow.data(), f32 ? wide.data() : nullptr, kN, scale.data()};
      ASSERT_TRUE(Enqueue(nullptr, Linear{dx.data(), {part}, 1, kTokens, kK, tile}).ok());
    }
    ops::ExpectSameBits(expected, wide.Floats());
    for (size_t i = 0; i < expected.size(); ++i) ASSERT_EQ(narrow.data()[i].bits, F32ToBF16(expected[i])) << i;
  }
}

// After the scale, each rounded; with and without one.
TEST_P(CudaLinear, ABiasIsAddedToTheScaledSum) {
  constexpr int kN = 37, kK = 96, kTokens = 9;
  DeviceWeight w(GetParam(), kN, kK, 19);
  const auto x = RandomBf16(kTokens * kK, 20);
  Buffer<float> scale(ops::RandomFloats(kN, 21)), bias(ops::RandomFloats(kN, 22, 10));
  const std::vector<float> sums = Multiply(w, x);
  Buffer<bf16> dx(x);
  for (const bool scaled : {false, true}) {
    std::vector<float> expected = sums;
    for (size_t i = 0; i < expected.size(); ++i) {
      if (scaled) expected[i] *= scale.data()[i % kN];
      expected[i] += bias.data()[i % kN];
    }
    for (int tile = 0; tile < linear::kTileCount; ++tile) {
      if (!linear::HasTile(GetParam(), tile)) continue;
      SCOPED_TRACE(testing::Message() << "tile " << tile);
      Buffer<float> wide(expected.size());
      Buffer<bf16> narrow(expected.size());
      for (const bool f32 : {true, false}) {
        const LinearPart part = {w.packed.data(),
                                 w.type,
                                 kN,
                                 f32 ? nullptr : narrow.data(),
                                 f32 ? wide.data() : nullptr,
                                 kN,
                                 scaled ? scale.data() : nullptr,
                                 bias.data()};
        ASSERT_TRUE(Enqueue(nullptr, Linear{dx.data(), {part}, 1, kTokens, kK, tile}).ok());
      }
      ops::ExpectSameBits(expected, wide.Floats());
      for (size_t i = 0; i < expected.size(); ++i) ASSERT_EQ(narrow.data()[i].bits, F32ToBF16(expected[i])) << i;
    }
  }
}

TEST_P(CudaLinear, PackingInPiecesIsPackingWhole) {
  constexpr int kN = 41, kK = 224;
  const auto canonical = ops::RandomWeight(GetParam(), kN, kK, 15);
  DeviceWeight whole(GetParam(), kN, kK, canonical);
  Buffer<uint8_t> pieces(whole.packed.size());
  const size_t row = RowBytes(GetParam(), kK);
  PackLinear(GetParam(), canonical.data() + 32 * row, 32, 9, kK, pieces.data());
  PackLinear(GetParam(), canonical.data(), 0, 32, kK, pieces.data());
  EXPECT_EQ(std::memcmp(whole.packed.data(), pieces.data(), pieces.size()), 0);
  const size_t rows = IsQuantised(GetParam()) ? 48 : kN;
  EXPECT_EQ(LinearBytes(GetParam(), kN, kK), row * rows) << "nothing but the last tile's rows";
}

INSTANTIATE_TEST_SUITE_P(Types, CudaLinear,
                         testing::Values(DType::kBF16, DType::kF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1,
                                         DType::kF8E4M3, DType::kI8, DType::kI4),
                         [](const auto& info) { return std::string(Info(info.param).name); });

TEST(CudaLinearParts, SharingACallGivesThePartsAlone) {
  constexpr int kK = 160, kTokens = 3;
  DeviceWeight weights[] = {
      {DType::kQ4_0, 40, kK, 1}, {DType::kBF16, 9, kK, 2}, {DType::kQ4_0, 70, kK, 3}, {DType::kF8E4M3, 16, kK, 4}};
  const auto x = RandomBf16(kTokens * kK, 5);
  Buffer<bf16> dx(x);
  for (const int tile : {-1, 0, 1, 3, 4, 5}) {
    SCOPED_TRACE(testing::Message() << "tile " << tile);
    std::vector<Buffer<bf16>> y;
    Linear op = {dx.data(), {}, 4, kTokens, kK, tile};
    for (size_t p = 0; p < 4; ++p) {
      const int n = weights[p].n;
      y.emplace_back(static_cast<size_t>(kTokens * (n + 5)));
      op.parts[p] = {weights[p].packed.data(), weights[p].type, n, y[p].data(), nullptr, n + 5};
    }
    ASSERT_TRUE(Enqueue(nullptr, op).ok());
    for (size_t p = 0; p < 4; ++p) {
      const size_t n = static_cast<size_t>(weights[p].n);
      const auto alone = Multiply(weights[p], x);
      for (size_t i = 0; i < y[p].size(); ++i) {
        const size_t t = i / (n + 5), r = i % (n + 5);
        const uint16_t expected = r < n ? F32ToBF16(alone[t * n + r]) : uint16_t{0xffff};
        ASSERT_EQ(y[p].data()[i].bits, expected) << "part " << p << " token " << t << " row " << r;
      }
    }
  }
}

TEST(CudaLinearErrors, WhatItCannotServeIsRefused) {
  bf16 y[16];
  const Linear good = {y, {{y, DType::kBF16, 8, y, nullptr, 8}}, 1, 0, 64};
  EXPECT_TRUE(Enqueue(nullptr, good).ok());
  const auto refused = [](const Linear& op) {
    return Enqueue(nullptr, op).code() == absl::StatusCode::kInvalidArgument;
  };
  Linear op = good;
  op.k = 40;
  EXPECT_TRUE(refused(op)) << "k in no whole blocks";
  op = good;
  op.part_count = 5;
  EXPECT_TRUE(refused(op)) << "too many parts";
  op = good;
  op.parts[0].type = DType::kF32;
  EXPECT_TRUE(refused(op)) << "a type without a kernel";
  op = good;
  op.parts[0].y_stride = 7;
  EXPECT_TRUE(refused(op)) << "rows that overlap";
  op = good;
  op.parts[0].y = nullptr;
  EXPECT_TRUE(refused(op)) << "no result";
  op = good;
  op.tile = linear::kTileCount;
  EXPECT_TRUE(refused(op)) << "no such tile";
  op.tile = 6;
  EXPECT_TRUE(Enqueue(nullptr, op).ok());
  op.parts[0].type = DType::kQ8_0;
  EXPECT_TRUE(refused(op)) << "a tile of other types";
}

}  // namespace
}  // namespace shoal::cuda
