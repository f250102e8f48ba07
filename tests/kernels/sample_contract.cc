#include "tests/kernels/sample_contract.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "kernels/ops/token_counts.h"

namespace shoal::ops {
namespace {

// One row. Ids that are not in `counts` have none; `allowed` empty: no mask. Its biases are not the first of all.
struct One {
  std::vector<float> logits;
  SampleRow params;
  std::vector<std::pair<int, uint16_t>> counts = {};
  std::vector<int> allowed = {};
  std::vector<SampleBias> biases = {};

  SampleBatch Batch() const {
    const auto vocab = static_cast<int>(logits.size());
    SampleBatch b = {.vocab = vocab, .rows = 1, .logits = logits};
    b.counts.resize(2 * static_cast<size_t>(CountsStride(vocab)));
    for (const auto& [id, count] : counts) b.counts[static_cast<size_t>(CountsStride(vocab) + id)] = count;
    b.masks.resize(static_cast<size_t>(MaskWords(vocab)));
    for (const int id : allowed) b.masks[static_cast<size_t>(id / 32)] |= 1u << (id % 32);
    b.params = {params};
    b.params[0].mask = allowed.empty() ? -1 : 0;
    b.biases = {{0, 1000}};
    b.biases.insert(b.biases.end(), biases.begin(), biases.end());
    b.params[0].bias_first = 1;
    b.params[0].bias_count = static_cast<int32_t>(biases.size());
    return b;
  }
};

int32_t TokenOf(const SampleKind& kind, const One& one) { return kind.run(one.Batch()).tokens[0]; }
SampleLogprobs LogprobsOf(const SampleKind& kind, const One& one) { return kind.run(one.Batch()).logprobs[0]; }

void ExpectNoLogprobs(const SampleLogprobs& out) {
  EXPECT_EQ(out.rank, 0);
  EXPECT_EQ(out.logprob, -INFINITY);
  for (int i = 0; i < kMaxTopLogprobs; ++i) {
    EXPECT_EQ(out.top_ids[i], -1);
    EXPECT_EQ(out.top_logprobs[i], -INFINITY);
  }
}

TEST_P(SampleContract, AgreesWithAnotherComputation) {
  for (const int vocab : {1003, 64, 21}) {
    const SampleBatch batch = MakeSampleBatch(vocab, 84, 100);
    const SampleResults got = GetParam().run(batch);
    ExpectResults(batch, got);
    EXPECT_GT(std::set<int32_t>(got.tokens.begin(), got.tokens.end()).size(), 15u) << "trivial choices";
    // Without mask and penalties other tokens come.
    SampleBatch plain = batch;
    plain.masks.clear();
    plain.counts.clear();
    plain.biases.clear();
    int same = 0;
    const SampleResults unchanged = GetParam().run(plain);
    for (size_t r = 0; r < got.tokens.size(); ++r) same += static_cast<int>(got.tokens[r] == unchanged.tokens[r]);
    EXPECT_LT(same, 50) << "of 84";
  }
}

TEST_P(SampleContract, ARowAloneIsTheRowAmongOthers) {
  const SampleBatch batch = MakeSampleBatch(1009, 30, 200);
  const SampleResults all = GetParam().run(batch);
  for (int r = 0; r < batch.rows; ++r) {
    SampleResults row(1);
    row.tokens = {all.tokens[static_cast<size_t>(r)]};
    row.logprobs = {all.logprobs[static_cast<size_t>(r)]};
    SCOPED_TRACE(testing::Message() << "row " << r);
    ExpectSameBits(row, GetParam().run(batch.Row(r)));
  }
}

// Whatever the counts say.
TEST_P(SampleContract, PenaltiesOfOneAndZeroChangeNoBit) {
  SampleBatch batch = MakeSampleBatch(1003, 60, 300);
  for (SampleRow& row : batch.params) {
    row.repetition = 1;
    row.presence = row.frequency = 0;
    row.place = 3;
  }
  SampleBatch without = batch;
  for (SampleRow& row : without.params) row.place = -1;
  const SampleResults expected = GetParam().run(without);
  ExpectSameBits(expected, GetParam().run(batch));
  without.counts.clear();
  ExpectSameBits(expected, GetParam().run(without));
}

// A mask that allows all, whatever its bits behind the vocabulary.
TEST_P(SampleContract, AllAllowedIsNoMask) {
  SampleBatch batch = MakeSampleBatch(1003, 30, 350);
  for (SampleRow& row : batch.params) row.mask = -1;
  const SampleResults expected = GetParam().run(batch);
  for (int r = 0; r < batch.rows; ++r) batch.params[static_cast<size_t>(r)].mask = batch.rows - 1 - r;
  std::fill(batch.masks.begin(), batch.masks.end(), ~0u);
  ExpectSameBits(expected, GetParam().run(batch));
  for (int r = 0; r < batch.rows; ++r) {
    batch.masks[static_cast<size_t>((r + 1) * MaskWords(batch.vocab) - 1)] = ~0u >> (32 - 1003 % 32);
  }
  ExpectSameBits(expected, GetParam().run(batch));
}

// Greedy: which of two ids is larger after the penalty.
TEST_P(SampleContract, RepetitionDividesWhatIsPositiveAndMultipliesTheRest) {
  const auto token = [&](std::vector<float> logits, float repetition, uint16_t count) {
    return TokenOf(GetParam(), {logits, {.repetition = repetition, .place = 1}, {{0, count}}});
  };
  for (const uint16_t count : {kInPrompt, uint16_t{1}, static_cast<uint16_t>(kInPrompt | 9)}) {
    EXPECT_EQ(token({3, 2.1f}, 1.4f, count), 0) << "3 / 1.4 > 2.1";
    EXPECT_EQ(token({3, 2.2f}, 1.4f, count), 1);
    EXPECT_EQ(token({-2, -2.7f}, 1.3f, count), 0) << "-2 * 1.3 > -2.7";
    EXPECT_EQ(token({-2, -2.5f}, 1.3f, count), 1);
    EXPECT_EQ(token({2, 3.9f}, 0.5f, count), 0) << "2 / 0.5 > 3.9";
    EXPECT_EQ(token({-2, -1.1f}, 0.5f, count), 0);
  }
  EXPECT_EQ(token({3, 2.2f}, 1.4f, 0), 0) << "an id that the sequence does not have";
}

TEST_P(SampleContract, PresenceAndFrequencyAreOfWhatWasGenerated) {
  const auto token = [&](std::vector<float> logits, float presence, float frequency, uint16_t count) {
    return TokenOf(GetParam(), {logits, {.presence = presence, .frequency = frequency, .place = 1}, {{0, count}}});
  };
  EXPECT_EQ(token({3, 2.9f}, 1, 1, kInPrompt), 0) << "the prompt is not what was generated";
  EXPECT_EQ(token({3, 2.3f}, 0.6f, 0, 5), 0) << "presence counts once";
  EXPECT_EQ(token({3, 2.5f}, 0.6f, 0, 5), 1);
  EXPECT_EQ(token({3, 1.4f}, 0, 0.3f, 5), 0) << "3 - 5 * 0.3";
  EXPECT_EQ(token({3, 1.6f}, 0, 0.3f, 5), 1);
  EXPECT_EQ(token({3, 1.6f}, 0, 0.3f, kInPrompt | 5), 1);
  EXPECT_EQ(token({3, 1.1f}, 0.3f, 0.3f, 5), 0) << "both";
  EXPECT_EQ(token({3, 1.3f}, 0.3f, 0.3f, 5), 1);
  EXPECT_EQ(token({1, 1.5f}, -0.6f, 0, 1), 0) << "a negative penalty favours";
  EXPECT_EQ(token({0, -32766}, 0, 1, kMostGenerated), 1) << "0 - 32767";
  EXPECT_EQ(token({0, -32768}, 0, 1, kMostGenerated), 0);
}

// 4 / 2 - 1 - 0.5 is 0.5: dividing last would leave 1.25.
TEST_P(SampleContract, RepetitionComesFirst) {
  const SampleRow row = {.repetition = 2, .presence = 0.5f, .frequency = 1, .place = 1};
  EXPECT_EQ(TokenOf(GetParam(), {{4, 0.6f}, row, {{0, 1}}}), 1);
  EXPECT_EQ(TokenOf(GetParam(), {{4, 0.4f}, row, {{0, 1}}}), 0);
}

TEST_P(SampleContract, BiasesShiftTheirIds) {
  std::vector<float> logits(300, 0.0f);
  for (const int id : {0, 1, 2, 3, 4, 30, 127, 255, 256, 298, 299}) {
    for (const float temperature : {0.0f, 0.5f}) {
      const SampleRow row = {.temperature = temperature, .uniform = 0.5f};
      EXPECT_EQ(TokenOf(GetParam(), {logits, row, {}, {}, {{id, 40}}}), id);
      // Others of the same row, before and behind it, that fall.
      std::vector<SampleBias> all;
      for (int i = 0; i < 300; i += i % 7 == 0 ? 1 : 3) {
        if (i < id) all.push_back({i, -1});
      }
      all.push_back({id, 40});
      if (id < 299) all.push_back({299, -7});
      EXPECT_EQ(TokenOf(GetParam(), {logits, row, {}, {}, all}), id);
    }
  }
  EXPECT_EQ(TokenOf(GetParam(), {{1, 2}, {}, {}, {}, {{1, -1.5f}}}), 0);
  EXPECT_EQ(TokenOf(GetParam(), {{1, 2}, {}, {}, {}, {{1, -0.5f}}}), 1);
}

// Before the penalties, whose sign the logit then decides; behind the mask, which no bias undoes.
TEST_P(SampleContract, BiasesComeBetweenMaskAndPenalties) {
  const SampleRow row = {.repetition = 2, .place = 1};
  EXPECT_EQ(TokenOf(GetParam(), {{-1, 1.4f}, row, {{0, 1}}, {}, {{0, 4}}}), 0) << "(-1 + 4) / 2 > 1.4";
  EXPECT_EQ(TokenOf(GetParam(), {{-1, 1.6f}, row, {{0, 1}}, {}, {{0, 4}}}), 1);
  EXPECT_EQ(TokenOf(GetParam(), {{5, 1}, {}, {}, {1}, {{0, 1e9f}}}), 1);
  EXPECT_EQ(TokenOf(GetParam(), {{1, 2}, {.logprobs = 0}, {}, {}, {{0, 3e38f}}}), 0);
  EXPECT_EQ(TokenOf(GetParam(), {{3e38f, 2}, {}, {}, {}, {{0, 3e38f}}}), -1) << "grown beyond all bounds";
  EXPECT_NEAR(LogprobsOf(GetParam(), {{1, 1}, {.logprobs = 0}, {}, {}, {{0, 50}}}).logprob, -std::log(2.0f), 1e-6f)
      << "as they came";
}

TEST_P(SampleContract, ForcedRowsGiveTheirToken) {
  const float ln2 = std::log(2.0f);
  for (const float temperature : {0.0f, 1.0f}) {
    SampleRow row = {.temperature = temperature, .uniform = 0.5f, .forced = 0, .logprobs = 2};
    const One one = {{0, 2 * ln2, ln2, ln2}, row};
    EXPECT_EQ(TokenOf(GetParam(), one), 0);
    const SampleLogprobs got = LogprobsOf(GetParam(), one);
    EXPECT_EQ(got.rank, 4);
    EXPECT_NEAR(got.logprob, -std::log(9.0f), 1e-6f);
    EXPECT_EQ(std::vector<int32_t>(got.top_ids, got.top_ids + 3), (std::vector<int32_t>{1, 2, -1}));
    // Whatever its logits say: then there is nothing to tell of them.
    for (const std::vector<float>& poisoned : {std::vector<float>{1, NAN, 3}, {1, INFINITY, 3}, {-NAN, 1, 2}}) {
      for (const int top : {0, 5}) {
        row.logprobs = top;
        EXPECT_EQ(TokenOf(GetParam(), {poisoned, row}), 0);
        ExpectNoLogprobs(LogprobsOf(GetParam(), {poisoned, row}));
      }
    }
    ExpectNoLogprobs(LogprobsOf(GetParam(), {std::vector<float>(40, -INFINITY), row}));
    // One that the model rules out.
    EXPECT_EQ(LogprobsOf(GetParam(), {{-INFINITY, 1, 2}, row}).logprob, -INFINITY);
    EXPECT_EQ(LogprobsOf(GetParam(), {{-INFINITY, 1, 2}, row}).rank, 3);
  }
}

TEST_P(SampleContract, OnlyWhatIsAllowedIsChosen) {
  std::vector<float> logits(70);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i);
  for (const int id : {0, 1, 30, 31, 32, 63, 64, 69}) {
    for (const float temperature : {0.0f, 1.0f}) {
      const SampleRow row = {.temperature = temperature, .uniform = 0.9999f};
      EXPECT_EQ(TokenOf(GetParam(), {logits, row, {}, {id}}), id);
    }
  }
  // Two are left: p = 1/2 each. A penalty on what is forbidden does not bring it back.
  logits.assign(70, 5.0f);
  const auto draw = [&](float uniform) {
    const SampleRow row = {.temperature = 1, .uniform = uniform, .presence = -100, .place = 1};
    return TokenOf(GetParam(), {logits, row, {{7, 1}}, {33, 65}});
  };
  EXPECT_EQ(draw(0.49f), 33);
  EXPECT_EQ(draw(0.51f), 65);
  // top_k counts what is allowed.
  const SampleRow top = {.temperature = 1, .top_k = 2, .uniform = 0.99f};
  EXPECT_EQ(TokenOf(GetParam(), {logits, top, {}, {3, 40, 69}}), 40);
}

TEST_P(SampleContract, ManyForbiddenIds) {
  SampleBatch batch = MakeSampleBatch(20011, 8, 400);
  for (size_t r = 0; r < 8; ++r) {
    SampleRow& row = batch.params[r];
    row.top_k = r % 2 == 0 ? 3000 : 100;
    row.logprobs = r % 4 == 0 ? 20 : 0;
    row.mask = r < 4 ? static_cast<int32_t>(r) : -1;
    if (r >= 4) {  // as if the model had forbidden nearly all
      for (size_t i = 0; i < 20011; ++i) {
        float& logit = batch.logits[r * 20011 + i];
        logit = i % (r == 4 ? 2000 : 11) == 5 ? logit : -INFINITY;
      }
    }
  }
  ExpectResults(batch, GetParam().run(batch));
}

TEST_P(SampleContract, NothingAllowedOrNothingFiniteGivesNoToken) {
  for (const float temperature : {0.0f, 0.8f}) {
    const SampleRow row = {.temperature = temperature, .uniform = 0.5f, .place = 1, .logprobs = 3};
    SampleBatch all = One{{1, 2, 3}, row, {}, {0}}.Batch();
    all.masks[0] = ~7u;  // of the vocabulary nothing
    const SampleResults none = GetParam().run(all);
    EXPECT_EQ(none.tokens[0], -1);
    ExpectNoLogprobs(none.logprobs[0]);
    EXPECT_EQ(TokenOf(GetParam(), {{-INFINITY, 2, -INFINITY}, row, {}, {0, 2}}), -1) << "what is left is -Inf";
    const float nan = std::nanf("");
    for (const float poison : {nan, -nan, INFINITY}) {
      EXPECT_EQ(TokenOf(GetParam(), {{1, poison, 3}, row, {}, {0, 2}}), -1) << "also where it is forbidden";
      EXPECT_EQ(TokenOf(GetParam(), {{1, poison, 3}, row, {{1, 2}}, {}}), -1);
      ExpectNoLogprobs(LogprobsOf(GetParam(), {{1, poison, 3}, row, {}, {0, 2}}));
    }
    SampleRow tiny = row;
    tiny.repetition = 1e-38f;
    EXPECT_EQ(TokenOf(GetParam(), {{1e5f, 2, 3}, tiny, {{0, 1}}, {}}), -1) << "grown beyond all bounds";
    EXPECT_EQ(TokenOf(GetParam(), {{1e5f, 2, 3}, tiny, {{0, 1}}, {1, 2}}), 2) << "but forbidden";
    SampleRow huge = row;
    huge.frequency = 3e38f;
    EXPECT_EQ(TokenOf(GetParam(), {{9, 2, 1}, huge, {{0, 20}}, {}}), 1) << "fallen beyond all bounds: forbidden";
  }
}

TEST_P(SampleContract, PaddingHasNoTokenAndNoLogprobs) {
  const SampleResults got =
      GetParam().run(One{{1, 2}, {.top_k = -1, .repetition = 2, .place = 1, .logprobs = 2}, {{0, 1}}, {1}}.Batch());
  EXPECT_EQ(got.tokens[0], -1);
  ExpectNoLogprobs(got.logprobs[0]);
}

// p = 1/2, 1/4, 1/8, 1/8 at ids 2, 0, 1, 3.
TEST_P(SampleContract, LogprobsAreOfTheLogitsAsTheyCame) {
  const float ln2 = std::log(2.0f);
  SampleRow row = {.temperature = 0.3f, .top_k = 2, .repetition = 8, .presence = 1, .place = 1, .logprobs = 3};
  const One one = {{100 + ln2, 100, 100 + 2 * ln2, 100}, row, {{0, 5}, {2, kInPrompt}}, {1, 3}};
  const SampleLogprobs got = LogprobsOf(GetParam(), one);
  EXPECT_EQ(TokenOf(GetParam(), one), 1);
  EXPECT_EQ(got.rank, 3) << "ties: lower id first";
  EXPECT_NEAR(got.logprob, -3 * ln2, 2e-5f) << "100 + ln 2 has seven digits";
  EXPECT_EQ(got.top_ids[0], 2);
  EXPECT_EQ(got.top_ids[1], 0);
  EXPECT_EQ(got.top_ids[2], 1);
  EXPECT_NEAR(got.top_logprobs[0], -ln2, 2e-5f);
  EXPECT_NEAR(got.top_logprobs[1], -2 * ln2, 2e-5f);
  EXPECT_EQ(got.top_logprobs[2], got.logprob);
  EXPECT_EQ(got.top_ids[3], -1);
  EXPECT_EQ(got.top_logprobs[3], -INFINITY);
}

TEST_P(SampleContract, ListsAsManyIdsAsThereAre) {
  SampleRow row = {.logprobs = 20};
  SampleLogprobs got = LogprobsOf(GetParam(), {{1, 5, -INFINITY, 3}, row});
  EXPECT_EQ(std::vector<int32_t>(got.top_ids, got.top_ids + 5), (std::vector<int32_t>{1, 3, 0, -1, -1}));
  EXPECT_EQ(got.top_logprobs[3], -INFINITY);
  row.logprobs = 0;
  got = LogprobsOf(GetParam(), {{1, 5, -INFINITY, 3}, row});
  EXPECT_EQ(got.rank, 1);
  EXPECT_NEAR(got.logprob, -0.14293f, 1e-5f) << "-log(1 + e^-2 + e^-4)";
  EXPECT_EQ(got.top_ids[0], -1);
  // Equal logits, more of them than are listed; far more are asked for.
  row.logprobs = 1000;
  got = LogprobsOf(GetParam(), {std::vector<float>(3000, -7.0f), row});
  for (int i = 0; i < kMaxTopLogprobs; ++i) {
    EXPECT_EQ(got.top_ids[i], i);
    EXPECT_NEAR(got.top_logprobs[i], -std::log(3000.0f), 1e-5f);
  }
  // -0 is 0.
  got = LogprobsOf(GetParam(), {{-0.0f, 0, -1, 0}, row});
  EXPECT_EQ(std::vector<int32_t>(got.top_ids, got.top_ids + 4), (std::vector<int32_t>{0, 1, 3, 2}));
}

// What lies so far below the largest that it weighs nothing is ranked too.
TEST_P(SampleContract, RanksReachDownToTheLast) {
  std::vector<float> logits(5000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = -100.0f - 0.01f * static_cast<float>(i * 7 % 5000);
  logits[4000] = 10;
  for (const int id : {4999, 713, 4000}) {
    const One one = {logits, {.temperature = 0.5f, .uniform = 0.3f, .logprobs = 20}, {}, {id}};
    const SampleBatch batch = one.Batch();
    ExpectResults(batch, GetParam().run(batch));
    const SampleLogprobs got = LogprobsOf(GetParam(), one);
    EXPECT_EQ(got.top_ids[0], 4000);
    EXPECT_GT(std::fabs(got.logprob) + static_cast<float>(id == 4000), 0.5f);
  }
}

TEST_P(SampleContract, WhatWasNotAskedForIsNotWritten) {
  SampleBatch batch = MakeSampleBatch(64, 12, 500);
  const SampleResults with = GetParam().run(batch);
  batch.logprobs = false;
  const SampleResults without = GetParam().run(batch);
  ExpectResults(batch, without);
  EXPECT_EQ(with.tokens, without.tokens);
}

}  // namespace
}  // namespace shoal::ops
