#include "kernels/ops/sample.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "common/base/rng.h"
#include "tests/kernels/kernel_test_util.h"

namespace shoal::ops {
namespace {

class Sample : public testing::TestWithParam<const OpTable*> {
 protected:
  int32_t One(const std::vector<float>& logits, const SampleRow& params) { return One(*GetParam(), logits, params); }
  int32_t One(const OpTable& table, const std::vector<float>& logits, const SampleRow& params) {
    int32_t token = -99;
    const std::unique_ptr<Stream> stream = MakeCpuStream(1);
    const auto vocab = static_cast<int>(logits.size());
    EXPECT_TRUE(table.sample(*stream, {logits.data(), vocab, &params, &token, 1, vocab}).ok());
    return token;
  }
};

TEST_P(Sample, GreedyTakesTheLargestAndTheLowestIdAmongEquals) {
  EXPECT_EQ(One({1, 5, 3, 5, -2}, {}), 1);
  EXPECT_EQ(One({-INFINITY, -3, -INFINITY}, {}), 1);
  std::vector<float> many(49152, 1);
  many[40000] = many[40001] = 2;
  EXPECT_EQ(One(many, {}), 40000);
}

TEST_P(Sample, NanOrInfinityOrNothingFiniteGivesNoToken) {
  for (const float temperature : {0.0f, 0.7f}) {
    EXPECT_EQ(One({0, INFINITY, 3, INFINITY}, {.temperature = temperature}), -1);
    EXPECT_EQ(One({0, -INFINITY}, {.temperature = temperature, .uniform = 0.999f}), 0) << "-Inf forbids a token";
    EXPECT_EQ(One({1, std::nanf(""), 3}, {.temperature = temperature}), -1);
    EXPECT_EQ(One({-INFINITY, -INFINITY}, {.temperature = temperature}), -1);
    std::vector<float> many(1000, 1);
    many[517] = std::nanf("");
    EXPECT_EQ(One(many, {.temperature = temperature}), -1);
  }
}

TEST_P(Sample, PaddingHasNoToken) {
  for (const float temperature : {0.0f, 1.0f}) EXPECT_EQ(One({3, 1}, {.temperature = temperature, .top_k = -1}), -1);
}

// p = 0.5, 0.25, 0.125, 0.125 at ids 2, 0, 1, 3.
TEST_P(Sample, FollowsTheDefinition) {
  const float ln2 = std::log(2.0f);
  const std::vector<float> logits = {ln2, 0, 2 * ln2, 0};
  const auto pick = [&](SampleRow row, float uniform) {
    row.temperature = 1;
    row.uniform = uniform;
    return One(logits, row);
  };
  EXPECT_EQ(pick({}, 0), 2);
  EXPECT_EQ(pick({}, 0.49f), 2);
  EXPECT_EQ(pick({}, 0.51f), 0);
  EXPECT_EQ(pick({}, 0.76f), 1) << "ties: lower id first";
  EXPECT_EQ(pick({}, 0.9999f), 3);
  EXPECT_EQ(pick({.top_k = 1}, 0.99f), 2);
  EXPECT_EQ(pick({.top_k = 2}, 0.66f), 2) << "renormalised to 2/3, 1/3";
  EXPECT_EQ(pick({.top_k = 2}, 0.67f), 0);
  EXPECT_EQ(pick({.top_k = 3}, 0.99f), 1) << "among equals the lower id is kept";
  EXPECT_EQ(pick({.top_p = 0.4f}, 0.99f), 2);
  EXPECT_EQ(pick({.top_p = 0.7f}, 0.99f), 0) << "the prefix reaches 0.75";
  EXPECT_EQ(pick({.min_p = 0.3f}, 0.99f), 0) << "drops p < 0.15";
  EXPECT_EQ(pick({.top_k = 3, .top_p = 0.8f}, 0.99f), 0) << "top_p of the renormalised 4/7, 2/7, 1/7";
}

TEST_P(Sample, TemperatureSharpensAndFlattens) {
  const std::vector<float> logits = {1, 2, 3};
  const auto at = [&](float temperature, float uniform) {
    return One(logits, {.temperature = temperature, .uniform = uniform});
  };
  EXPECT_EQ(at(0.01f, 0.999f), 2);
  EXPECT_EQ(at(1000.0f, 0.34f), 1);
  EXPECT_EQ(at(1000.0f, 0.99f), 0);
}

TEST_P(Sample, MatchesTheReferenceOnManyRows) {
  constexpr int kVocab = 3001, kRows = 120;
  const auto logits = RandomFloats(size_t{kVocab} * kRows, 77, 3);
  std::vector<SampleRow> params;
  const float temperatures[] = {0, 0.3f, 1, 2.5f}, top_ps[] = {1, 0.9f, 0.3f}, min_ps[] = {0, 0.05f};
  const int top_ks[] = {0, 1, 40, 700, 5000};
  for (uint32_t r = 0; r < kRows; ++r) {
    params.push_back({temperatures[r % 4], top_ks[r % 5], top_ps[r % 3], min_ps[r / 60], SamplingUniform(5, 0, r, 0)});
  }
  std::vector<int32_t> expected(kRows), actual(kRows);
  const std::unique_ptr<Stream> one = MakeCpuStream(1), three = MakeCpuStream(3);
  ASSERT_TRUE(RefTable().sample(*one, {logits.data(), kVocab, params.data(), expected.data(), kRows, kVocab}).ok());
  ASSERT_TRUE(GetParam()->sample(*three, {logits.data(), kVocab, params.data(), actual.data(), kRows, kVocab}).ok());
  EXPECT_EQ(expected, actual);
  EXPECT_GT(std::set<int32_t>(expected.begin(), expected.end()).size(), 60u) << "trivial choices";
}

TEST_P(Sample, RowAloneIsTheRowAmongOthers) {
  constexpr int kVocab = 1009, kRows = 64;
  const auto logits = RandomFloats(size_t{kVocab} * kRows, 78, 3);
  std::vector<SampleRow> params;
  std::vector<int32_t> alone(kRows);
  const std::unique_ptr<Stream> one = MakeCpuStream(1);
  for (uint32_t r = 0; r < kRows; ++r) {
    params.push_back({r % 3 == 0 ? 0 : 1.7f, r % 2 == 0 ? 0 : 50, r % 5 == 0 ? 0.9f : 1, r % 7 == 0 ? 0.01f : 0,
                      SamplingUniform(7, 0, r, 0)});
    const float* row = logits.data() + size_t{kVocab} * r;
    ASSERT_TRUE(GetParam()->sample(*one, {row, kVocab, &params[r], &alone[r], 1, kVocab}).ok());
  }
  EXPECT_GT(std::set<int32_t>(alone.begin(), alone.end()).size(), 30u) << "trivial choices";
  for (int rows = 1; rows <= kRows; ++rows) {
    for (const int threads : {1, 3}) {
      std::vector<int32_t> among(static_cast<size_t>(rows));
      const std::unique_ptr<Stream> stream = MakeCpuStream(threads);
      ASSERT_TRUE(GetParam()->sample(*stream, {logits.data(), kVocab, params.data(), among.data(), rows, kVocab}).ok());
      EXPECT_EQ(std::vector<int32_t>(alone.begin(), alone.begin() + rows), among) << rows << " rows";
    }
  }
}

// A deep choice walks far down the ranking; heavy ties cross its stretches.
TEST_P(Sample, MatchesTheReferenceAmongTiesFarDown) {
  std::vector<float> logits(5000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(RandomBits(3, 0, i) % 7) * 0.1f;
  for (uint32_t draw = 0; draw < 50; ++draw) {
    const SampleRow row = {
        .temperature = 1.3f, .top_p = draw % 2 == 0 ? 1 : 0.97f, .uniform = SamplingUniform(6, 0, 0, draw)};
    EXPECT_EQ(One(RefTable(), logits, row), One(logits, row)) << "draw " << draw;
  }
}

TEST_P(Sample, FrequenciesFollowTheProbabilities) {
  const std::vector<float> logits = {std::log(0.6f), std::log(0.3f), std::log(0.1f)};
  int count[3] = {};
  constexpr int kDraws = 3000;
  for (uint32_t i = 0; i < kDraws; ++i) {
    ++count[One(logits, {.temperature = 1, .uniform = SamplingUniform(1, 0, i, 0)})];
  }
  EXPECT_NEAR(count[0], 0.6 * kDraws, 120);
  EXPECT_NEAR(count[1], 0.3 * kDraws, 120);
  EXPECT_NEAR(count[2], 0.1 * kDraws, 90);
}

std::vector<const OpTable*> RealTables() {
  std::vector<const OpTable*> tables = FastTables();
  tables.push_back(&RefTable());
  return tables;
}
INSTANTIATE_TEST_SUITE_P(Tables, Sample, testing::ValuesIn(RealTables()),
                         [](const auto& info) { return NameOf(*info.param); });

}  // namespace
}  // namespace shoal::ops
