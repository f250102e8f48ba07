// The ops that treat each token by itself: embed and packing, rms_norm, quantise, rope_kv, glu, copy_blocks.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/kernels/kernel_test_util.h"

namespace shoal::ops {
namespace {

std::unique_ptr<Stream> Threads(int n) { return MakeCpuStream(n); }

class RowOps : public testing::TestWithParam<const OpTable*> {
 protected:
  const OpTable& table() const { return *GetParam(); }
};

// Packing loses nothing: each row comes back as the canonical row's values, to the bit.
TEST_P(RowOps, EmbedReadsBackWhatWasPacked) {
  for (const DType t : AllDTypes()) {
    for (const int n : {1, 16, 37}) {
      const int k = IsQuantised(t) ? 96 : 45;
      const auto canonical = RandomWeight(t, n, k, 3);
      const PackedWeight w = Pack(table(), t, canonical, n, k);
      std::vector<int32_t> ids;
      for (int i = n + 1; i >= -1; --i) ids.push_back(100 + i);
      const std::unique_ptr<Stream> stream = Threads(2);
      std::vector<float> x(ids.size() * static_cast<size_t>(k), -1e30f), row(static_cast<size_t>(k));
      const EmbedArgs args = {w.view, ids.data(), 100, 0.5f, x.data(), static_cast<int>(ids.size())};
      ASSERT_TRUE(table().embed(*stream, args).ok());
      for (size_t i = 0; i < ids.size(); ++i) {
        const int at = ids[i] - 100;
        std::fill(row.begin(), row.end(), 0.0f);
        if (at >= 0 && at < n) {
          DequantiseRow(t, canonical.data() + RowBytes(t, k) * static_cast<size_t>(at), k, row.data());
          for (float& v : row) v *= 0.5f;
          EXPECT_NE(row, std::vector<float>(row.size(), 0.0f)) << "trivial";
        }
        SCOPED_TRACE(testing::Message() << Info(t).name << " row " << at << " of " << n);
        ExpectSameBits(row.data(), x.data() + i * static_cast<size_t>(k), row.size());
      }
    }
  }
}

// Each value times the row's scale, rounded, times the scale of all, rounded, and the summand last; rows that another
// shard has stay zero without it.
TEST_P(RowOps, EmbedScalesRowsThenAdds) {
  constexpr int kN = 37, kK = 96;
  const auto scale = RandomFloats(kN, 4), add = RandomFloats(kK, 6);
  for (const DType t : AllDTypes()) {
    const auto canonical = RandomWeight(t, kN, kK, 5);
    PackedWeight w = Pack(table(), t, canonical, kN, kK);
    w.view.row_scale = scale.data();
    for (const auto& [all, summand] : {std::pair{1.0f, false}, {1.7f, false}, {1.7f, true}}) {
      const int32_t ids[] = {36, 0, 11, kN};
      std::vector<float> x(4 * kK, -1e30f), row(kK);
      const EmbedArgs args = {w.view, ids, 0, all, x.data(), 4, summand ? add.data() : nullptr};
      ASSERT_TRUE(table().embed(*Threads(1), args).ok());
      for (size_t i = 0; i < 3; ++i) {
        DequantiseRow(t, canonical.data() + RowBytes(t, kK) * static_cast<size_t>(ids[i]), kK, row.data());
        for (size_t c = 0; c < kK; ++c) {
          row[c] = row[c] * scale[static_cast<size_t>(ids[i])] * all;
          if (summand) row[c] += add[c];
        }
        SCOPED_TRACE(testing::Message() << Info(t).name << " row " << ids[i]);
        ExpectSameBits(row.data(), x.data() + i * kK, kK);
      }
      const std::vector<float> zeros(kK, 0.0f);
      ExpectSameBits(zeros.data(), x.data() + 3 * kK, kK);
    }
  }
}

TEST_P(RowOps, PackedMatrixIsAlignedAndComplete) {
  EXPECT_GE(table().row_group, 1);
  for (const DType t : AllDTypes()) {
    EXPECT_TRUE(table().supports(t));
    EXPECT_GE(table().packed_bytes(t, 33, 64), RowBytes(t, 64) * 33);
    const DType at_most = t == DType::kI4 ? DType::kQ8_0 : t;  // as which the CPU sets pack it
    EXPECT_LE(table().packed_bytes(t, 512, 576), RowBytes(at_most, 576) * 512 * 102 / 100) << "packing wastes memory";
  }
}

TEST_P(RowOps, RmsNormAgreesWithTheReference) {
  for (const int dim : {1, 13, 64, 576}) {
    constexpr int kTokens = 5;
    const auto size = static_cast<size_t>(dim * kTokens);
    const auto x = RandomFloats(size, 1), add = RandomFloats(size, 2), w = RandomFloats(static_cast<size_t>(dim), 3);
    for (const bool join : {false, true}) {
      auto x1 = x, x2 = x;
      std::vector<float> y1(size), y2(size);
      const std::unique_ptr<Stream> stream = Threads(2);
      RmsNormArgs a = {x1.data(), join ? add.data() : nullptr, w.data(), y1.data(), kTokens, dim, 1e-5f, 1.0f};
      ASSERT_TRUE(RefTable().rms_norm(*stream, a).ok());
      a.x = x2.data();
      a.y = y2.data();
      ASSERT_TRUE(table().rms_norm(*stream, a).ok());
      ExpectSameBits(x1, x2);
      EXPECT_EQ(x1 != x, join);
      ExpectRowsNear(y1, y2, static_cast<size_t>(dim), 1e-5f);
    }
  }
}

TEST_P(RowOps, RmsNormWithoutWeightOnlyJoins) {
  auto x = RandomFloats(100, 1);
  const auto before = x, add = RandomFloats(100, 2);
  const std::unique_ptr<Stream> stream = Threads(1);
  ASSERT_TRUE(table().rms_norm(*stream, {x.data(), add.data(), nullptr, nullptr, 2, 50, 1e-5f, 0}).ok());
  for (size_t i = 0; i < 100; ++i) EXPECT_EQ(x[i], before[i] + add[i]);
}

TEST_P(RowOps, RmsNormRowAloneIsTheRowAmongOthers) {
  constexpr int kTokens = 64, kDim = 576;
  auto x = RandomFloats(kTokens * kDim, 5);
  const auto w = RandomFloats(kDim, 6);
  std::vector<float> all(x.size()), alone(x.size());
  for (const int threads : {1, 2, 3, 5}) {
    const std::unique_ptr<Stream> stream = Threads(threads);
    ASSERT_TRUE(table().rms_norm(*stream, {x.data(), nullptr, w.data(), all.data(), kTokens, kDim, 1e-5f, 0}).ok());
    for (int t = 0; t < kTokens; ++t) {
      const RmsNormArgs a = {x.data() + t * kDim, nullptr, w.data(), alone.data() + t * kDim, 1, kDim, 1e-5f, 0};
      ASSERT_TRUE(table().rms_norm(*stream, a).ok());
    }
    ExpectSameBits(alone, all);
  }
}

// The whole op is defined to the bit, so it is compared to the bit.
TEST_P(RowOps, QuantiseIsTheReference) {
  constexpr int kTokens = 67, kK = 576;
  auto x = RandomFloats(kTokens * kK, 9);
  for (int i = 0; i < 32; ++i) x[static_cast<size_t>(i)] = 0;                               // a block of zeros
  for (int i = 32; i < 64; ++i) x[static_cast<size_t>(i)] = static_cast<float>(i) - 48.5f;  // ties
  x[40] = 127;
  for (int i = 64; i < 96; ++i) x[static_cast<size_t>(i)] = 1e-43f * static_cast<float>(i - 80);  // subnormal
  x[100] = INFINITY;
  x[130] = std::nanf("");
  QuantisedRows expected(x, kTokens, kK);
  EXPECT_TRUE(std::isnan(expected.scale[3]) && std::isnan(expected.sum[4]) && expected.scale[0] == 0);
  for (const int threads : {1, 2, 3, 5}) {
    std::vector<int8_t> q(x.size(), 99);
    std::vector<float> scale(expected.scale.size()), sum(scale.size());
    const std::unique_ptr<Stream> stream = Threads(threads);
    ASSERT_TRUE(table().quantise(*stream, {x.data(), {q.data(), scale.data(), sum.data()}, kTokens, kK}).ok());
    EXPECT_EQ(expected.q, q);
    for (size_t b = 0; b < scale.size(); ++b) {
      if (std::isnan(expected.scale[b])) {
        EXPECT_TRUE(std::isnan(scale[b]) && std::isnan(sum[b]));
      } else {
        EXPECT_TRUE(scale[b] == expected.scale[b] && sum[b] == expected.sum[b]) << "block " << b;
      }
    }
  }
}

TEST_P(RowOps, QuantiseRefusesAShortBlock) {
  std::vector<float> x(40);
  const std::unique_ptr<Stream> stream = Threads(1);
  EXPECT_EQ(table().quantise(*stream, {x.data(), {}, 1, 40}).code(), absl::StatusCode::kInvalidArgument);
}

// Rotation is defined in f32 without fused operations, and rounding by IEEE: the reference's bits, for q and cache.
TEST_P(RowOps, RopeKvIsTheReference) {
  constexpr int kTokens = 21, kHeads = 3, kKvHeads = 2, kBlocks = 3, kBlockSize = 16;
  for (const int dim : {20, 64}) {
    for (const int rot_dim : {dim, dim / 2}) {
      for (const bool interleaved : {false, true}) {
        for (const DType t : {DType::kF32, DType::kF16, DType::kBF16}) {
          const auto k = RandomFloats(static_cast<size_t>(kTokens * kKvHeads * dim), 1, 100);
          const auto v = RandomFloats(k.size(), 2);
          const auto cos = RandomFloats(static_cast<size_t>(kTokens * rot_dim / 2), 3),
                     sin = RandomFloats(cos.size(), 4);
          std::vector<int64_t> slots;
          const bool by_token = t != DType::kF16;
          std::vector<int32_t> angles;
          for (int i = 0; i < kTokens; ++i) angles.push_back((i * 5 + 1) % kTokens);
          for (int i = 0; i < kTokens; ++i) slots.push_back(i == 5 ? -1 : (i * 29 + 3) % (kBlocks * kBlockSize));
          const size_t bytes = RowBytes(t, int64_t{kBlocks} * kKvHeads * kBlockSize * dim);
          std::vector<std::vector<float>> q(2);
          AlignedBytes caches[2][2];
          for (size_t i = 0; i < 2; ++i) {
            q[i] = RandomFloats(static_cast<size_t>(kTokens * kHeads * dim), 5);
            for (AlignedBytes& c : caches[i]) c = AllocateAligned(bytes);
            const KvLayer layer = {caches[i][0].get(), caches[i][1].get(), t, kBlockSize, kKvHeads, dim};
            const RopeKvArgs a = {.q = q[i].data(),
                                  .k = k.data(),
                                  .v = v.data(),
                                  .q_stride = kHeads * dim,
                                  .kv_stride = kKvHeads * dim,
                                  .cos = cos.data(),
                                  .sin = sin.data(),
                                  .angles = by_token ? nullptr : angles.data(),
                                  .slots = slots.data(),
                                  .cache = layer,
                                  .tokens = kTokens,
                                  .q_heads = kHeads,
                                  .rot_dim = rot_dim,
                                  .interleaved = interleaved};
            const std::unique_ptr<Stream> stream = Threads(3);
            ASSERT_TRUE((i == 0 ? RefTable() : table()).rope_kv(*stream, a).ok());
          }
          EXPECT_NE(q[0], RandomFloats(q[0].size(), 5));
          ExpectSameBits(q[0], q[1]);
          EXPECT_EQ(0, std::memcmp(caches[0][0].get(), caches[1][0].get(), bytes)) << "k";
          EXPECT_EQ(0, std::memcmp(caches[0][1].get(), caches[1][1].get(), bytes)) << "v";
        }
      }
    }
  }
}

TEST_P(RowOps, GluAgreesWithTheReferenceInPlaceToo) {
  for (const Activation act : {Activation::kSilu, Activation::kGeluTanh, Activation::kGelu}) {
    for (const int dim : {1, 37, 1536}) {
      constexpr int kTokens = 9;
      const auto gate = RandomFloats(static_cast<size_t>(kTokens * dim), 1, 3), up = RandomFloats(gate.size(), 2);
      std::vector<float> expected(gate.size()), actual(gate.size());
      const std::unique_ptr<Stream> one = Threads(1), three = Threads(3);
      ASSERT_TRUE(RefTable().glu(*one, {gate.data(), up.data(), expected.data(), kTokens, dim, act}).ok());
      ASSERT_TRUE(table().glu(*three, {gate.data(), up.data(), actual.data(), kTokens, dim, act}).ok());
      ExpectRowsNear(expected, actual, static_cast<size_t>(dim), 1e-5f);
      auto in_place = gate;
      ASSERT_TRUE(table().glu(*one, {in_place.data(), up.data(), in_place.data(), kTokens, dim, act}).ok());
      ExpectSameBits(actual, in_place);
      ASSERT_TRUE(RefTable().glu(*one, {gate.data(), nullptr, expected.data(), kTokens, dim, act}).ok());
      ASSERT_TRUE(table().glu(*three, {gate.data(), nullptr, actual.data(), kTokens, dim, act}).ok());
      ExpectRowsNear(expected, actual, static_cast<size_t>(dim), 1e-5f);
    }
  }
}

// What the published formulas give, to the digits that they were computed with.
TEST_P(RowOps, ActivationsAreThoseOfTheirPapers) {
  const std::vector<float> x = {-3, -1, -0.5f, 0, 0.5f, 1, 3};
  const std::vector<std::pair<Activation, std::vector<float>>> known = {
      {Activation::kSilu, {-0.142277620f, -0.268941421f, -0.188770334f, 0, 0.311229666f, 0.731058579f, 2.857722380f}},
      {Activation::kGeluTanh, {-0.00363739f, -0.15880801f, -0.15428599f, 0, 0.34571401f, 0.84119199f, 2.99636261f}},
      {Activation::kGelu, {-0.00404969f, -0.15865525f, -0.15426877f, 0, 0.34573123f, 0.84134475f, 2.99595031f}}};
  for (const auto& [act, y] : known) {
    std::vector<float> got(x.size());
    ASSERT_TRUE(table().glu(*Threads(1), {x.data(), nullptr, got.data(), 1, static_cast<int>(x.size()), act}).ok());
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(got[i], y[i], 1e-6) << x[i] << " " << static_cast<int>(act);
  }
}

TEST_P(RowOps, SoftCapAgreesWithTheReferenceAndKeepsItsSign) {
  for (const int64_t count : {1, 37, 5000}) {
    for (const float cap : {0.0f, 2.0f, 30.0f}) {
      const auto x = RandomFloats(static_cast<size_t>(count), 1, 8);
      auto expected = x, actual = x;
      ASSERT_TRUE(RefTable().soft_cap(*Threads(1), {expected.data(), count, 0.7f, cap}).ok());
      ASSERT_TRUE(table().soft_cap(*Threads(3), {actual.data(), count, 0.7f, cap}).ok());
      EXPECT_NE(expected, x);
      for (size_t i = 0; i < x.size(); ++i) {
        ASSERT_NEAR(actual[i], expected[i], 1e-6f * std::max(cap, std::abs(expected[i]))) << x[i];
        ASSERT_LE(std::abs(actual[i]), cap > 0 ? cap : INFINITY);
      }
    }
  }
}

TEST_P(RowOps, SoftCapSaturatesWithoutNan) {
  std::vector<float> y = {-INFINITY, -1e30f, 1e30f, INFINITY, std::nanf("")};
  ASSERT_TRUE(table().soft_cap(*Threads(1), {y.data(), 5, 1, 30}).ok());
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(y[i], i < 2 ? -30 : 30);
  EXPECT_TRUE(std::isnan(y[4]));
}

TEST_P(RowOps, NormsInPlaceGiveTheSameBits) {
  constexpr int kTokens = 5, kDim = 77;
  const auto x = RandomFloats(kTokens * kDim, 1), add = RandomFloats(x.size(), 2), w = RandomFloats(kDim, 3),
             bias = RandomFloats(kDim, 4);
  for (const float* joined : {static_cast<const float*>(nullptr), add.data()}) {
    auto apart = x, in_place = x;
    std::vector<float> y(x.size());
    const std::unique_ptr<Stream> stream = Threads(2);
    ASSERT_TRUE(table().rms_norm(*stream, {apart.data(), joined, w.data(), y.data(), kTokens, kDim, 1e-5f, 1}).ok());
    ASSERT_TRUE(
        table().rms_norm(*stream, {in_place.data(), joined, w.data(), in_place.data(), kTokens, kDim, 1e-5f, 1}).ok());
    ExpectSameBits(y, in_place);
    apart = in_place = x;
    ASSERT_TRUE(table()
                    .layer_norm(*stream, {apart.data(), joined, w.data(), bias.data(), y.data(), kTokens, kDim, 1e-5f})
                    .ok());
    ASSERT_TRUE(table()
                    .layer_norm(*stream,
                                {in_place.data(), joined, w.data(), bias.data(), in_place.data(), kTokens, kDim, 1e-5f})
                    .ok());
    ExpectSameBits(y, in_place);
  }
}

// Sums of small whole numbers are exact, so that the means are known.
TEST_P(RowOps, PoolTakesOneVectorForEachSequence) {
  const std::vector<float> x = {1, 2, 3, 6, 5, 1, /**/ 3, 4, /**/ 0, 0};
  const std::vector<int32_t> first = {3, 0, 4}, rows = {1, 3, 1};
  const auto pooled = [&](Pooling pooling, bool normalise) {
    std::vector<float> y(6, -1e30f);
    EXPECT_TRUE(
        table().pool(*Threads(2), {x.data(), first.data(), rows.data(), y.data(), 3, 2, pooling, normalise}).ok());
    return y;
  };
  EXPECT_EQ(pooled(Pooling::kFirst, false), (std::vector<float>{3, 4, 1, 2, 0, 0}));
  EXPECT_EQ(pooled(Pooling::kLast, false), (std::vector<float>{3, 4, 5, 1, 0, 0}));
  EXPECT_EQ(pooled(Pooling::kMean, false), (std::vector<float>{3, 4, 3, 3, 0, 0}));
  const std::vector<float> unit = pooled(Pooling::kMean, true);
  const std::vector<float> expected = {0.6f, 0.8f, 0.70710678f, 0.70710678f, 0, 0};
  for (size_t i = 0; i < unit.size(); ++i) EXPECT_FLOAT_EQ(unit[i], expected[i]) << i;
}

TEST_P(RowOps, GluRowAloneIsTheRowAmongOthers) {
  constexpr int kTokens = 64, kDim = 333;
  const auto gate = RandomFloats(kTokens * kDim, 7, 3), up = RandomFloats(gate.size(), 8);
  for (const Activation act : {Activation::kSilu, Activation::kGeluTanh, Activation::kGelu}) {
    std::vector<float> alone(gate.size());
    const std::unique_ptr<Stream> one = Threads(1);
    for (int t = 0; t < kTokens; ++t) {
      const GluArgs a = {gate.data() + t * kDim, up.data() + t * kDim, alone.data() + t * kDim, 1, kDim, act};
      ASSERT_TRUE(table().glu(*one, a).ok());
    }
    for (int tokens = 1; tokens <= kTokens; ++tokens) {
      for (const int threads : {1, 3}) {
        std::vector<float> among(static_cast<size_t>(tokens * kDim));
        const std::unique_ptr<Stream> stream = Threads(threads);
        ASSERT_TRUE(table().glu(*stream, {gate.data(), up.data(), among.data(), tokens, kDim, act}).ok());
        ExpectSameBits(alone.data(), among.data(), among.size());
      }
    }
  }
}

TEST_P(RowOps, GluSaturatesWithoutNan) {
  const std::vector<float> gate = {-1e30f, -200, -89, 89, 200, 1e12f}, up(gate.size(), 1);
  for (const Activation act : {Activation::kSilu, Activation::kGeluTanh, Activation::kGelu}) {
    std::vector<float> y(gate.size());
    const std::unique_ptr<Stream> stream = Threads(1);
    ASSERT_TRUE(table().glu(*stream, {gate.data(), up.data(), y.data(), 1, static_cast<int>(y.size()), act}).ok());
    for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(y[i], 0, 1e-6) << gate[i];
    for (size_t i = 3; i < 6; ++i) EXPECT_FLOAT_EQ(y[i], gate[i]);
  }
}

TEST_P(RowOps, AChecksumTellsOfEveryBit) {
  const std::unique_ptr<Stream> stream = Threads(2);
  for (const size_t count : {1u, 31u, 500u}) {
    std::vector<float> values = RandomFloats(count, 1);
    const auto sums = [&] {
      std::vector<uint64_t> out(kChecksumParts);
      EXPECT_TRUE(table().checksum(*stream, {values.data(), static_cast<int64_t>(count * 4), out.data()}).ok());
      return out;
    };
    const std::vector<uint64_t> before = sums();
    EXPECT_EQ(sums(), before);
    for (size_t i = 0; i < count; i += 7) {
      const float was = std::exchange(values[i], -values[i]);
      EXPECT_NE(sums(), before) << i;
      values[i] = was;
    }
  }
}

TEST_P(RowOps, GatherRowsTakesRowsInAnyOrderAndAgain) {
  constexpr int kDim = 45;
  const auto x = RandomFloats(7 * kDim, 1);
  const std::vector<int32_t> rows = {6, 0, 3, 3, 5};
  std::vector<float> y(rows.size() * kDim, -1e30f);
  const std::unique_ptr<Stream> stream = Threads(3);
  const GatherRowsArgs args = {x.data(), rows.data(), y.data(), static_cast<int>(rows.size()), kDim};
  ASSERT_TRUE(table().gather_rows(*stream, args).ok());
  for (size_t i = 0; i < rows.size(); ++i) {
    ExpectSameBits(x.data() + size_t(rows[i]) * kDim, y.data() + i * kDim, kDim);
  }
}

TEST_P(RowOps, IdsAreLiteralOrTheLastOnesOfAPlace) {
  const std::unique_ptr<Stream> stream = Threads(2);
  std::vector<int32_t> last = {10, 11, 12, 13};
  const std::vector<int32_t> tokens = {70, 71, -1, 73}, places = {2, -1, 3, 0};
  ASSERT_TRUE(table().scatter_ids(*stream, {tokens.data(), places.data(), last.data(), 4}).ok());
  EXPECT_EQ(last, (std::vector<int32_t>{73, 11, 70, 0}));
  std::vector<int32_t> ids = {5, ~2, ~0, 0, ~1, ~3};
  ASSERT_TRUE(table().gather_ids(*stream, {ids.data(), last.data(), ids.data(), 6}).ok());
  EXPECT_EQ(ids, (std::vector<int32_t>{5, 70, 73, 0, 11, 0}));
}

TEST_P(RowOps, CopyBlocksCopiesInOrder) {
  constexpr int kBlocks = 5, kHeads = 3, kSize = 16, kDim = 20;
  const size_t block = static_cast<size_t>(kHeads) * kSize * kDim;
  auto k = RandomFloats(block * kBlocks, 1), v = RandomFloats(block * kBlocks, 2);
  const auto k0 = k, v0 = v;
  const BlockPair pairs[] = {{0, 3}, {3, 4}, {1, 0}};
  const std::unique_ptr<Stream> stream = Threads(2);
  const KvLayer layer = {k.data(), v.data(), DType::kF32, kSize, kHeads, kDim};
  ASSERT_TRUE(table().copy_blocks(*stream, {layer, pairs, 3}).ok());
  const size_t source[] = {1, 1, 2, 0, 0};
  for (size_t b = 0; b < kBlocks; ++b) {
    ExpectSameBits(&k0[source[b] * block], &k[b * block], block);
    ExpectSameBits(&v0[source[b] * block], &v[b * block], block);
  }
}

// Magnitudes apart, so that another order would show.
TEST_P(RowOps, PartsOfRanksAreSummedInTheirOrder) {
  const std::unique_ptr<Stream> stream = Threads(2);
  const std::vector<float> parts = {1e8f, 1.0f, 0.0f, -1e8f, 2.0f, 0.0f, 1.0f, 3.0f, 0.0f};
  std::vector<float> y(2, -1.0f);
  ASSERT_TRUE(table().sum_ranks(*stream, {parts.data(), 3, 3, y.data(), 2}).ok());
  EXPECT_EQ(y, (std::vector<float>{1.0f, 6.0f}));
  const std::vector<float> others = {1e8f, 1.0f, -1e8f};
  ASSERT_TRUE(table().sum_ranks(*stream, {others.data(), 1, 3, y.data(), 1}).ok());
  EXPECT_EQ(y[0], 0.0f);
}

TEST_P(RowOps, ColumnsArePlacedAndNothingElseIsTouched) {
  const std::unique_ptr<Stream> stream = Threads(2);
  const std::vector<float> x = {1, 2, 3, 4, 5, 6};
  std::vector<float> y(10, 0.0f);
  ASSERT_TRUE(table().place_columns(*stream, {x.data(), y.data() + 1, 5, 2, 3}).ok());
  EXPECT_EQ(y, (std::vector<float>{0, 1, 2, 3, 0, 0, 4, 5, 6, 0}));
}

std::vector<const OpTable*> RealTables() {
  std::vector<const OpTable*> tables = FastTables();
  tables.push_back(&RefTable());
  return tables;
}
INSTANTIATE_TEST_SUITE_P(Tables, RowOps, testing::ValuesIn(RealTables()),
                         [](const auto& info) { return NameOf(*info.param); });

}  // namespace
}  // namespace shoal::ops
