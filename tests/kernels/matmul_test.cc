#include "kernels/ops/matmul.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/kernel_test_util.h"

namespace shoal::ops {
namespace {

constexpr float kTolerance = 1e-3f;

struct Case {
  const OpTable* table;
  DType dtype;
};

class Matmul : public testing::TestWithParam<Case> {
 protected:
  const OpTable& table() const { return *GetParam().table; }
  DType dtype() const { return GetParam().dtype; }

  // y [tokens, n] of one weight.
  std::vector<float> Multiply(const OpTable& table, const Weight& w, const std::vector<float>& x, int tokens,
                              int threads) {
    const int k = static_cast<int>(w.k);
    const std::unique_ptr<Stream> stream = MakeCpuStream(threads);
    std::vector<float> y(static_cast<size_t>(tokens * w.n), -1e30f);
    MatmulArgs args{};
    args.tokens = tokens;
    args.k = k;
    args.part_count = 1;
    args.parts[0] = {w, y.data(), w.n};
    std::unique_ptr<QuantisedRows> acts;
    QuantisedActs view{};
    if (IsQuantised(w.dtype)) {
      acts = std::make_unique<QuantisedRows>(x, tokens, k);
      view = acts->View();
      args.xq = &view;
    } else {
      args.x = x.data();
    }
    EXPECT_TRUE(table.matmul(*stream, args).ok());
    return y;
  }
};

class QuantisedMatmul : public Matmul {};

TEST_P(Matmul, AgreesWithTheReference) {
  const std::vector<int> quantised_k = {32, 96, 576, 1536}, plain_k = {1, 31, 100, 576};
  for (const int k : IsQuantised(dtype()) ? quantised_k : plain_k) {
    for (const int n : {1, 7, 16, 33, 100}) {
      for (const int tokens : {1, 3, 11}) {
        const auto canonical = RandomWeight(dtype(), n, k, 7);
        const auto x = RandomFloats(static_cast<size_t>(tokens * k), 8);
        const PackedWeight reference = Pack(RefTable(), dtype(), canonical, n, k);
        const PackedWeight packed = Pack(table(), dtype(), canonical, n, k);
        SCOPED_TRACE(testing::Message() << "n " << n << " k " << k << " tokens " << tokens);
        ExpectRowsNear(Multiply(RefTable(), reference.view, x, tokens, 1), Multiply(table(), packed.view, x, tokens, 2),
                       static_cast<size_t>(n), kTolerance);
      }
    }
  }
}

// Inputs whose sums are large beside their spread: what an offset trick would lose shows here.
TEST_P(Matmul, AgreesWithTheReferenceOnOneSidedInputs) {
  constexpr int kN = 40, kK = 320, kTokens = 5;
  auto x = RandomFloats(kTokens * kK, 11, 0.05f);
  for (float& v : x) v += 1;
  const auto canonical = RandomWeight(dtype(), kN, kK, 12);
  const PackedWeight reference = Pack(RefTable(), dtype(), canonical, kN, kK);
  const PackedWeight packed = Pack(table(), dtype(), canonical, kN, kK);
  ExpectRowsNear(Multiply(RefTable(), reference.view, x, kTokens, 1), Multiply(table(), packed.view, x, kTokens, 1), kN,
                 1e-4f);
}

// The largest codes of both sides with one sign: an intermediate that saturates or overflows shows.
TEST_P(QuantisedMatmul, ExtremeCodesDoNotSaturate) {
  constexpr int kN = 17, kK = 64;
  for (const uint8_t code : {uint8_t{0xFF}, uint8_t{0x7F}, uint8_t{0x80}, uint8_t{0x81}}) {
    auto canonical = RandomWeight(dtype(), kN, kK, 13);
    const size_t block = Info(dtype()).block_bytes, header = block - (dtype() == DType::kQ8_0 ? 32 : 16);
    for (size_t i = 0; i < canonical.size(); ++i) {
      if (i % block >= header) canonical[i] = code;
    }
    for (const float sign : {1.0f, -1.0f}) {
      const std::vector<float> x(kK, sign * 3);
      const PackedWeight reference = Pack(RefTable(), dtype(), canonical, kN, kK);
      const PackedWeight packed = Pack(table(), dtype(), canonical, kN, kK);
      ExpectRowsNear(Multiply(RefTable(), reference.view, x, 1, 1), Multiply(table(), packed.view, x, 1, 1), kN, 1e-5f);
    }
  }
}

TEST_P(Matmul, RowAloneIsTheRowAmongOthersWithAnyThreads) {
  constexpr int kN = 75, kMost = 64;
  const int k = IsQuantised(dtype()) ? 160 : 157;
  const PackedWeight w = Pack(table(), dtype(), RandomWeight(dtype(), kN, k, 21), kN, k);
  const auto x = RandomFloats(static_cast<size_t>(kMost * k), 22);
  std::vector<float> alone;
  for (int t = 0; t < kMost; ++t) {
    const auto begin = x.begin() + t * k;
    const auto y = Multiply(table(), w.view, {begin, begin + k}, 1, 1);
    alone.insert(alone.end(), y.begin(), y.end());
  }
  for (int tokens = 1; tokens <= kMost; ++tokens) {
    const std::vector<float> some(x.begin(), x.begin() + tokens * k);
    const int threads[] = {1, 2, 3, 5};
    const auto y = Multiply(table(), w.view, some, tokens, threads[tokens % 4]);
    SCOPED_TRACE(testing::Message() << tokens << " tokens");
    ExpectSameBits(alone.data(), y.data(), y.size());
  }
  const auto all = Multiply(table(), w.view, x, kMost, 1);
  for (const int threads : {2, 3, 5}) ExpectSameBits(all, Multiply(table(), w.view, x, kMost, threads));
}

TEST_P(Matmul, PartsSharingACallAreThePartsAlone) {
  constexpr int kK = 96, kTokens = 3;
  const int ns[] = {40, 9, 257};
  const auto x = RandomFloats(kTokens * kK, 31);
  QuantisedRows acts(x, kTokens, kK);
  const QuantisedActs view = acts.View();
  std::vector<PackedWeight> weights;
  std::vector<std::vector<float>> together;
  MatmulArgs args{};
  args.x = x.data();
  args.xq = &view;
  args.tokens = kTokens;
  args.k = kK;
  args.part_count = 3;
  for (int p = 0; p < 3; ++p) {
    weights.push_back(
        Pack(table(), dtype(), RandomWeight(dtype(), ns[p], kK, 32 + static_cast<uint64_t>(p)), ns[p], kK));
    together.emplace_back(static_cast<size_t>(kTokens * (ns[p] + 5)), -7.0f);
  }
  for (int p = 0; p < 3; ++p)
    args.parts[p] = {weights[static_cast<size_t>(p)].view, together[static_cast<size_t>(p)].data(), ns[p] + 5};
  const std::unique_ptr<Stream> stream = MakeCpuStream(3);
  ASSERT_TRUE(table().matmul(*stream, args).ok());
  for (size_t p = 0; p < 3; ++p) {
    const auto n = static_cast<size_t>(ns[p]);
    const auto alone = Multiply(table(), weights[p].view, x, kTokens, 1);
    for (size_t t = 0; t < kTokens; ++t) {
      const float* row = together[p].data() + t * (n + 5);
      ExpectSameBits(alone.data() + t * n, row, n);
      for (size_t i = n; i < n + 5; ++i) EXPECT_EQ(row[i], -7.0f) << "wrote past the row";
    }
  }
}

TEST_P(Matmul, ARowsScaleMultipliesItsSum) {
  constexpr int kN = 37, kK = 64, kTokens = 11;
  PackedWeight w = Pack(table(), dtype(), RandomWeight(dtype(), kN, kK, 41), kN, kK);
  const auto x = RandomFloats(kTokens * kK, 42), scale = RandomFloats(kN, 43);
  std::vector<float> expected = Multiply(table(), w.view, x, kTokens, 2);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] *= scale[i % kN];
  w.view.row_scale = scale.data();
  ExpectSameBits(expected, Multiply(table(), w.view, x, kTokens, 2));
  PackedWeight reference = Pack(RefTable(), dtype(), RandomWeight(dtype(), kN, kK, 41), kN, kK);
  reference.view.row_scale = scale.data();
  ExpectRowsNear(Multiply(RefTable(), reference.view, x, kTokens, 1), expected, kN, kTolerance);
}

TEST_P(Matmul, ABiasIsAddedToWhatTheScaleMade) {
  constexpr int kN = 37, kK = 64, kTokens = 11;
  PackedWeight w = Pack(table(), dtype(), RandomWeight(dtype(), kN, kK, 41), kN, kK);
  const auto x = RandomFloats(kTokens * kK, 42), scale = RandomFloats(kN, 43), bias = RandomFloats(kN, 44, 9);
  for (const float* scales : {static_cast<const float*>(nullptr), scale.data()}) {
    w.view.row_scale = scales;
    w.view.bias = nullptr;
    std::vector<float> expected = Multiply(table(), w.view, x, kTokens, 2);
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += bias[i % kN];
    w.view.bias = bias.data();
    ExpectSameBits(expected, Multiply(table(), w.view, x, kTokens, 2));
    PackedWeight reference = Pack(RefTable(), dtype(), RandomWeight(dtype(), kN, kK, 41), kN, kK);
    reference.view.row_scale = scales;
    reference.view.bias = bias.data();
    ExpectRowsNear(Multiply(RefTable(), reference.view, x, kTokens, 1), expected, kN, kTolerance);
  }
}

TEST_P(Matmul, RefusesWhatItCannotMultiply) {
  const PackedWeight w = Pack(table(), dtype(), RandomWeight(dtype(), 8, 64, 1), 8, 64);
  std::vector<float> x(64, 1), y(8);
  const std::unique_ptr<Stream> stream = MakeCpuStream(1);
  MatmulArgs args{};
  args.tokens = 1;
  args.k = 32;
  args.part_count = 1;
  args.parts[0] = {w.view, y.data(), 8};
  EXPECT_EQ(table().matmul(*stream, args).code(), absl::StatusCode::kInvalidArgument) << "k differs";
  args.k = 64;
  EXPECT_EQ(table().matmul(*stream, args).code(), absl::StatusCode::kInvalidArgument) << "no input";
}

// A code of fp8 that is not a number shows in its row and in no other.
TEST(MatmulFp8, ACodeThatIsNoNumberShows) {
  constexpr int kN = 20, kK = 48;
  for (const OpTable* table : RunnableOpTables()) {
    if (table->name == "null") continue;
    auto canonical = RandomWeight(DType::kF8E4M3, kN, kK, 51);
    canonical[3 * kK + 5] = 0x7F;
    canonical[17 * kK + 47] = 0xFF;
    const PackedWeight w = Pack(*table, DType::kF8E4M3, canonical, kN, kK);
    const std::vector<float> x(kK, 1);
    std::vector<float> y(kN);
    MatmulArgs args{};
    args.x = x.data();
    args.tokens = 1;
    args.k = kK;
    args.part_count = 1;
    args.parts[0] = {w.view, y.data(), kN};
    ASSERT_TRUE(table->matmul(*MakeCpuStream(1), args).ok());
    for (size_t n = 0; n < kN; ++n) EXPECT_EQ(std::isnan(y[n]), n == 3 || n == 17) << table->name << " row " << n;
  }
}

std::vector<Case> Cases(bool plain_too) {
  std::vector<Case> cases;
  for (const OpTable* table : FastTables()) {
    for (const DType t : AllDTypes()) {
      if (plain_too || IsQuantised(t)) cases.push_back({table, t});
    }
  }
  return cases;
}
std::string CaseName(const testing::TestParamInfo<Case>& info) {
  return NameOf(*info.param.table) + "_" + std::string(Info(info.param.dtype).name);
}
INSTANTIATE_TEST_SUITE_P(Tables, Matmul, testing::ValuesIn(Cases(true)), CaseName);
INSTANTIATE_TEST_SUITE_P(Tables, QuantisedMatmul, testing::ValuesIn(Cases(false)), CaseName);

}  // namespace
}  // namespace shoal::ops
