#include "kernels/cuda/sample.h"

#include <set>

#include "common/base/rng.h"
#include "kernels/cuda/sm80/sample/rank.h"
#include "tests/kernels/cuda/buffers.h"

namespace shoal::cuda {
namespace {

using ops::SampleRow;

// Rows of `vocab` logits, one after the other; on the device NaN fills `gap` between them.
std::vector<int32_t> OnDevice(const std::vector<float>& logits, int vocab, const std::vector<SampleRow>& params,
                              size_t gap) {
  const size_t rows = params.size(), width = static_cast<size_t>(vocab), stride = width + gap;
  Buffer<float> x(rows * stride);
  for (size_t r = 0; r < rows; ++r) {
    std::memcpy(x.data() + r * stride, logits.data() + r * width, sizeof(float) * width);
  }
  std::vector<int32_t> tokens(rows, -99);
  const ops::SampleArgs op = {x.data(),      static_cast<int64_t>(stride), params.data(),
                              tokens.data(), static_cast<int>(rows),       vocab};
  EXPECT_TRUE(Enqueue(nullptr, op).ok());
  return tokens;
}
// Each row begins on a border of 16 bytes.
std::vector<int32_t> OnDevice(const std::vector<float>& logits, int vocab, const std::vector<SampleRow>& params) {
  return OnDevice(logits, vocab, params, 4 + static_cast<size_t>(4 - vocab % 4) % 4);
}

std::vector<int32_t> Expected(const std::vector<float>& logits, int vocab, const std::vector<SampleRow>& params) {
  std::vector<int32_t> tokens(params.size());
  const auto stream = ops::MakeCpuStream(1);
  const ops::SampleArgs args = {logits.data(), vocab, params.data(), tokens.data(), static_cast<int>(params.size()),
                                vocab};
  EXPECT_TRUE(ops::RefTable().sample(*stream, args).ok());
  return tokens;
}

int32_t One(const std::vector<float>& logits, const SampleRow& params) {
  return OnDevice(logits, static_cast<int>(logits.size()), {params})[0];
}

TEST(CudaSampleRank, KeysHaveTheOrderOfTheNumbers) {
  const std::vector<float> rising = {-INFINITY, -3e38f, -2, -1e-44f, 0, 1e-44f, 1, 1.0000001f, 3e38f, INFINITY};
  for (size_t i = 0; i + 1 < rising.size(); ++i) {
    EXPECT_LT(sample::KeyOf(rising[i]), sample::KeyOf(rising[i + 1]));
    EXPECT_EQ(sample::OfKey(sample::KeyOf(rising[i])), rising[i]);
  }
  EXPECT_EQ(sample::KeyOf(-0.0f), sample::KeyOf(0.0f));
  EXPECT_EQ(sample::KeyOf(INFINITY), sample::kKeyOfInfinity);
  EXPECT_EQ(sample::KeyOf(-INFINITY), sample::kKeyOfMinusInfinity);
  EXPECT_TRUE(sample::IsNan(NAN) && sample::IsNan(-NAN) && !sample::IsNan(INFINITY) && !sample::IsNan(0));
}

TEST(CudaSampleRank, WeightsAreTheExponential) {
  EXPECT_EQ(sample::WeightOf(0), uint64_t{1} << 39);
  for (int i = 1; i < 40000; ++i) {
    const double gap = i * 0.000801, exact = std::exp(-gap) * 0x1p39;
    EXPECT_NEAR(static_cast<double>(sample::WeightOf(gap)), exact, 0.501) << gap;
  }
  EXPECT_EQ(sample::WeightOf(32), 0u);
  EXPECT_EQ(sample::WeightOf(INFINITY), 0u);
  EXPECT_EQ(sample::WeightOf(NAN), 0u);
}

TEST(CudaSampleRank, BinsFollowTheOrder) {
  const auto falls = [](const sample::Cut& c, const std::vector<float>& falling) {
    int last = 0;
    for (const float x : falling) {
      const int bin = sample::BinOf(c, x);
      EXPECT_TRUE(bin >= last && bin < sample::kBins) << x;
      last = bin;
    }
    return last;
  };
  const std::vector<float> falling = {7, 6.999f, 6.9f, 0, -1, -24, -25.5f, -INFINITY};
  EXPECT_EQ(falls(sample::CutByGap(7, 1), falling), sample::kBins - 1);
  EXPECT_EQ(falls(sample::CutByGap(7, 1e-44f), falling), sample::kBins - 1);
  EXPECT_EQ(sample::BinOf(sample::CutByGap(7, 1e-44f), 7), 0);
  EXPECT_EQ(sample::BinOf(sample::CutByGap(7, INFINITY), -20), 0);
  const sample::Cut keys = sample::CutByKey(sample::KeyOf(-24), sample::KeyOf(6.9f));
  EXPECT_GT(falls(keys, {6.9f, 0, -1, -24}), sample::kBins / 2 - 1);
  EXPECT_EQ(sample::BinOf(keys, 6.9f), 0);
  EXPECT_EQ(sample::BinOf(keys, 7), -1);
  EXPECT_EQ(sample::BinOf(keys, -25), -1);
  EXPECT_EQ(sample::CutByKey(5, 5 + sample::kBins - 1).shift, 0);
  EXPECT_EQ(sample::CutByKey(5, 5 + sample::kBins).shift, 1);
}

TEST(CudaSample, GreedyTakesTheLargestAndTheLowestIdAmongEquals) {
  EXPECT_EQ(One({1, 5, 3, 5, -2}, {}), 1);
  EXPECT_EQ(One({-INFINITY, -3, -INFINITY}, {}), 1);
  EXPECT_EQ(One({-1, -0.0f, 0.0f}, {}), 1);
  std::vector<float> many(49153, 1);
  many[40000] = many[40001] = many[49152] = 2;
  EXPECT_EQ(One(many, {}), 40000);
  many[49152] = 3;
  EXPECT_EQ(One(many, {}), 49152);
}

TEST(CudaSample, NanOrInfinityOrNothingFiniteGivesNoToken) {
  for (const float temperature : {0.0f, 0.7f}) {
    EXPECT_EQ(One({0, INFINITY, 3, INFINITY}, {.temperature = temperature}), -1);
    EXPECT_EQ(One({0, -INFINITY}, {.temperature = temperature, .uniform = 0.999f}), 0) << "-Inf forbids a token";
    EXPECT_EQ(One({1, NAN, 3}, {.temperature = temperature}), -1);
    EXPECT_EQ(One({1, -NAN, 3}, {.temperature = temperature}), -1);
    EXPECT_EQ(One({-INFINITY, -INFINITY}, {.temperature = temperature}), -1);
  }
}

// p = 0.5, 0.25, 0.125, 0.125 at ids 2, 0, 1, 3.
TEST(CudaSample, FollowsTheDefinition) {
  const float ln2 = std::log(2.0f);
  const auto pick = [&](SampleRow row, float uniform) {
    row.temperature = 1;
    row.uniform = uniform;
    return One({ln2, 0, 2 * ln2, 0}, row);
  };
  EXPECT_EQ(pick({}, 0), 2);
  EXPECT_EQ(pick({}, 0.51f), 0);
  EXPECT_EQ(pick({}, 0.76f), 1) << "ties: lower id first";
  EXPECT_EQ(pick({}, 0.9999f), 3);
  EXPECT_EQ(pick({.top_k = 2}, 0.66f), 2) << "renormalised to 2/3, 1/3";
  EXPECT_EQ(pick({.top_k = 2}, 0.67f), 0);
  EXPECT_EQ(pick({.top_k = 3}, 0.99f), 1) << "among equals the lower id is kept";
  EXPECT_EQ(pick({.top_p = 0.7f}, 0.99f), 0) << "the prefix reaches 0.75";
  EXPECT_EQ(pick({.top_p = 0}, 0.99f), 2) << "at least one";
  EXPECT_EQ(pick({.min_p = 0.3f}, 0.99f), 0) << "drops p < 0.15";
  EXPECT_EQ(pick({.min_p = 2}, 0.99f), 2) << "at least one";
  EXPECT_EQ(pick({.top_k = 3, .top_p = 0.8f}, 0.99f), 0) << "top_p of the renormalised 4/7, 2/7, 1/7";
  const SampleRow half = {.temperature = 1, .top_p = 0.5f, .uniform = 0.99f};
  EXPECT_EQ(One({3, 3, 3, 3}, half), 1) << "two reach a half";
  EXPECT_EQ(One({3, 3, 3, 3}, {.temperature = 1, .uniform = 0.25f}), 1) << "the first does not exceed a quarter";
}

std::vector<SampleRow> ManyParams(uint32_t rows) {
  const float temperatures[] = {0, 0.3f, 1, 2.5f, 1e-30f, 1e9f, 0.02f}, top_ps[] = {1, 0.9f, 0.3f};
  const int top_ks[] = {0, 1, 40, 700, 5000};
  std::vector<SampleRow> params;
  for (uint32_t r = 0; r < rows; ++r) {
    params.push_back(
        {temperatures[r % 7], top_ks[r % 5], top_ps[r % 3], r % 4 == 0 ? 0.05f : 0, SamplingUniform(5, 0, r, 0)});
  }
  return params;
}

TEST(CudaSample, MatchesTheReferenceOnManyRows) {
  constexpr int kVocab = 3001;
  constexpr uint32_t kRows = 105;
  const auto logits = ops::RandomFloats(size_t{kVocab} * kRows, 77, 3);
  const auto params = ManyParams(kRows);
  const auto tokens = OnDevice(logits, kVocab, params);
  EXPECT_EQ(tokens, Expected(logits, kVocab, params));
  EXPECT_GT(std::set<int32_t>(tokens.begin(), tokens.end()).size(), 50u) << "trivial choices";
}

// Stretches of more members than one block lists: they are cut again by key, down to equal logits.
TEST(CudaSample, MatchesTheReferenceWhereManyLogitsAreClose) {
  constexpr int kVocab = 20011;
  std::vector<float> logits;
  std::vector<SampleRow> params;
  for (uint32_t r = 0; r < 14; ++r) {
    for (uint64_t i = 0; i < kVocab; ++i) {
      const auto x = static_cast<float>(RandomBits(3, r, i) % 100000) * 1e-5f;
      // Within one stretch; among seven values; all equal but one; two far apart.
      const float kinds[] = {x * 0.01f, std::floor(x * 7) * 0.1f, i == 17 ? 1.0f : 0.5f, i % 2 == 0 ? 5.0f : 5.0001f};
      logits.push_back(kinds[r % 4]);
    }
    params.push_back({.temperature = r < 7 ? 1.0f : 0.1f,
                      .top_k = r % 3 == 0 ? 9000 : 0,
                      .top_p = r % 2 == 0 ? 1 : 0.97f,
                      .uniform = SamplingUniform(6, 0, r, 1)});
  }
  const auto tokens = OnDevice(logits, kVocab, params);
  EXPECT_EQ(tokens, Expected(logits, kVocab, params));
  EXPECT_GT(std::set<int32_t>(tokens.begin(), tokens.end()).size(), 10u) << "trivial choices";
}

// The largest vocabulary: the counters hold, with all weights 1 as well.
TEST(CudaSample, MatchesTheReferenceOnTheLargestVocabulary) {
  constexpr int kVocab = sample::kMaxVocab;
  std::vector<float> logits = ops::RandomFloats(kVocab, 9, 2);
  logits.resize(2 * kVocab, 1.5f);
  const std::vector<SampleRow> params = {{.temperature = 0.8f, .top_k = 100000, .top_p = 0.99f, .uniform = 0.97f},
                                         {.temperature = 1, .uniform = 0.9999f}};
  EXPECT_EQ(OnDevice(logits, kVocab, params), Expected(logits, kVocab, params));
}

TEST(CudaSample, ARowAloneIsTheRowAmongOthersInEveryOrder) {
  constexpr int kVocab = 1009;
  constexpr uint32_t kRows = 14;
  const auto logits = ops::RandomFloats(size_t{kVocab} * kRows, 78, 3);
  const auto params = ManyParams(kRows);
  const auto all = InEveryOrder<int32_t>([&] { return OnDevice(logits, kVocab, params); });
  for (uint32_t r = 0; r < kRows; ++r) {
    const std::vector<float> row(logits.begin() + r * kVocab, logits.begin() + (r + 1) * kVocab);
    EXPECT_EQ(One(row, params[r]), all[r]);
  }
}

TEST(CudaSample, RowsMayBeginAnywhere) {
  constexpr uint32_t kRows = 21;
  const auto params = ManyParams(kRows);
  for (const int vocab : {1, 2, 3, 5, 1009, 1010, 1011}) {
    const auto logits = ops::RandomFloats(static_cast<size_t>(vocab) * kRows, 79, 3);
    const auto expected = Expected(logits, vocab, params);
    for (const size_t gap : {0, 1, 2}) EXPECT_EQ(OnDevice(logits, vocab, params, gap), expected) << vocab << " " << gap;
  }
}

TEST(CudaSample, PaddingIsNotRead) {
  const std::vector<float> logits = {1, 2, 3, 4, 9, 8, 7, 6, NAN, 0, 0, 0, 0, 5, 0, 0};
  std::vector<SampleRow> params(4);
  params[1].top_k = -1;
  params[1].temperature = 1;
  EXPECT_EQ(OnDevice(logits, 4, params), (std::vector<int32_t>{3, -1, -1, 1}));
  EXPECT_EQ(Expected(logits, 4, params), (std::vector<int32_t>{3, -1, -1, 1}));
}

TEST(CudaSample, RefusesWhatItCannotServe) {
  const auto refused = [](int vocab) {
    return Enqueue(nullptr, ops::SampleArgs{nullptr, vocab, nullptr, nullptr, 1, vocab}).code() ==
           absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused(0));
  EXPECT_TRUE(refused(sample::kMaxVocab + 1));
}

}  // namespace
}  // namespace shoal::cuda
