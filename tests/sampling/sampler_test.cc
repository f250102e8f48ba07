#include "worker/sampling/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "common/base/rng.h"
#include "kernels/ops/backends.h"

namespace shoal::sampling {
namespace {

using Tokens = std::vector<int32_t>;
constexpr int kVocab = 64;

plan::MirroredSequence Sequence(Tokens tokens, int32_t prompt, const plan::SamplingParams& sampling) {
  plan::MirroredSequence s;
  s.start_tokens = s.length = static_cast<int32_t>(tokens.size());
  s.tokens = std::move(tokens);
  s.prompt_tokens = prompt;
  s.sampling = sampling;
  return s;
}

Output Next(const plan::MirroredSequence& sequence, int32_t place, uint64_t owner) {
  return {
      .sequence = &sequence, .position = static_cast<int32_t>(sequence.tokens.size()), .place = place, .owner = owner};
}

TEST(SamplerTest, ARowIsKeyedBySeedChoiceAndPosition) {
  plan::SamplingParams params;
  params.temperature = 0.7f;
  params.top_k = 40;
  params.top_p = 0.9f;
  params.min_p = 0.05f;
  params.seed = 0x123456789abcdef0;
  params.choice = 3;
  plan::MirroredSequence sequence = Sequence(Tokens(17, 1), 17, params);
  const ops::SampleRow row = MakeRow(Next(sequence, 5, 1));
  EXPECT_EQ(row.temperature, 0.7f);
  EXPECT_EQ(row.top_k, 40);
  EXPECT_EQ(row.top_p, 0.9f);
  EXPECT_EQ(row.min_p, 0.05f);
  EXPECT_EQ(row.uniform, SamplingUniform(0x123456789abcdef0, 3, 17, 0));
  EXPECT_EQ(row.place, -1);
  EXPECT_EQ(row.mask, -1);
  EXPECT_EQ(row.bias_count, 0);
  EXPECT_EQ(row.forced, -1);
  EXPECT_EQ(row.logprobs, -1);
  sequence.tokens.push_back(1);
  EXPECT_NE(MakeRow(Next(sequence, 5, 1)).uniform, row.uniform);
}

TEST(SamplerTest, WhatARowWantsLiesAtThePlaceOfItsSequence) {
  plan::SamplingParams params;
  params.presence_penalty = 0.5f;
  params.allowed_tokens = {1, 2};
  params.biases = {{3, 1}, {4, 2}};
  params.logprobs = 4;
  params.prompt_logprobs = 7;
  const plan::MirroredSequence sequence = Sequence({1, 2, 3}, 3, params);
  Output output = Next(sequence, 5, 1);
  const ops::SampleRow row = MakeRow(output);
  EXPECT_EQ(row.presence, 0.5f);
  EXPECT_EQ(row.place, 5);
  EXPECT_EQ(row.mask, 5);
  EXPECT_EQ(row.bias_first, 5 * 1024);
  EXPECT_EQ(row.bias_count, 2);
  EXPECT_EQ(row.logprobs, 4);
  output.forced = 2;
  const ops::SampleRow known = MakeRow(output);
  EXPECT_EQ(known.forced, 2);
  EXPECT_EQ(known.logprobs, 7);
  EXPECT_EQ(known.place, -1);
  EXPECT_EQ(known.mask, -1);
  EXPECT_EQ(known.bias_count, 0);
}

// Each table of real arithmetic that runs here.
class SamplerOnHost : public testing::TestWithParam<const ops::OpTable*> {
 protected:
  SamplerOnHost()
      : device_(device::MakeHostDevice(GetParam(), 1)), sampler_(*Sampler::Create(device_.get(), 5, kVocab)) {}

  // The tokens of outputs that all have these logits, but row by row shifted by `shift`.
  Tokens Sample(const std::vector<Output>& outputs, const std::vector<float>& logits) {
    std::vector<ops::SampleRow> rows;
    std::vector<float> all;
    for (const Output& o : outputs) {
      rows.push_back(MakeRow(o));
      all.insert(all.end(), logits.begin(), logits.end());
    }
    EXPECT_FALSE(sampler_.LacksTokens(outputs));
    const absl::StatusOr<Sampled> sampled = sampler_.Sample(all, rows.data(), outputs);
    EXPECT_TRUE(sampled.ok()) << sampled.status();
    logprobs_ = sampled->logprobs;
    return {sampled->tokens.begin(), sampled->tokens.end()};
  }
  // So many more tokens of one sequence, each recorded as it comes.
  Tokens Generate(plan::MirroredSequence& sequence, int32_t place, uint64_t owner, const std::vector<float>& logits,
                  int count) {
    Tokens out;
    for (int i = 0; i < count; ++i) {
      out.push_back(Sample({Next(sequence, place, owner)}, logits)[0]);
      sequence.tokens.push_back(out.back());
    }
    return out;
  }

  const std::unique_ptr<device::Device> device_;
  Sampler sampler_;
  const ops::SampleLogprobs* logprobs_ = nullptr;
};

std::vector<const ops::OpTable*> RealTables() {
  std::vector<const ops::OpTable*> out;
  for (const ops::OpTable* table : ops::RunnableOpTables()) {
    if (table->name != "null") out.push_back(table);
  }
  return out;
}
INSTANTIATE_TEST_SUITE_P(Tables, SamplerOnHost, testing::ValuesIn(RealTables()));

// Falling from id 0 on, by half a unit each.
std::vector<float> Falling() {
  std::vector<float> logits(kVocab);
  for (int i = 0; i < kVocab; ++i) logits[i] = 40 - 0.5f * static_cast<float>(i);
  return logits;
}

// The most likely id after penalties, by counting tokens.
Tokens Expected(Tokens tokens, int32_t prompt, const plan::SamplingParams& s, const std::vector<float>& logits,
                int count) {
  Tokens out;
  for (int n = 0; n < count; ++n) {
    std::map<int32_t, int> generated;
    for (size_t i = static_cast<size_t>(prompt); i < tokens.size(); ++i) ++generated[tokens[i]];
    int32_t best = 0;
    std::vector<float> changed = logits;
    for (int32_t id = 0; id < kVocab; ++id) {
      if (std::find(tokens.begin(), tokens.end(), id) != tokens.end()) changed[id] /= s.repetition_penalty;
      if (generated.contains(id)) {
        changed[id] -= s.frequency_penalty * static_cast<float>(generated[id]);
        changed[id] -= s.presence_penalty;
      }
      if (changed[id] > changed[best]) best = id;
    }
    out.push_back(best);
    tokens.push_back(best);
  }
  return out;
}

TEST_P(SamplerOnHost, EachRowGetsItsOwnParameters) {
  // Token 9 is the most likely; 20 and 21 share the rest.
  std::vector<float> logits(kVocab, -1e4f);
  logits[9] = std::log(0.5f);
  logits[20] = logits[21] = std::log(0.25f);
  plan::SamplingParams greedy, one, allowed, biased;
  one.temperature = 1;
  one.top_k = 1;
  allowed.allowed_tokens = {20, 63};
  allowed.logprobs = 1;
  biased.biases = {{21, 2}};
  const plan::MirroredSequence a = Sequence({1}, 1, greedy), b = Sequence({1}, 1, one), c = Sequence({1}, 1, allowed),
                               d = Sequence({1}, 1, biased);
  Output known = Next(a, 0, 1);
  known.forced = 33;
  const std::vector<Output> outputs = {Next(a, 0, 1), Next(b, 1, 2), Next(c, 4, 3), Next(d, 3, 4), known};
  EXPECT_EQ(Sample(outputs, logits), (Tokens{9, 9, 20, 21, 33}));
  ASSERT_NE(logprobs_, nullptr);
  EXPECT_NEAR(logprobs_[2].logprob, std::log(0.25f), 1e-6f);
  EXPECT_EQ(logprobs_[2].top_ids[0], 9);
  logits[40] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(Sample({Next(a, 0, 1), Next(d, 3, 4)}, logits), (Tokens{-1, -1}));
  EXPECT_EQ(logprobs_, nullptr) << "nobody wants any";
}

TEST_P(SamplerOnHost, EachTokenCountsForThoseBehindIt) {
  plan::SamplingParams params;
  params.repetition_penalty = 1.05f;
  params.presence_penalty = 0.3f;
  params.frequency_penalty = 0.4f;
  const std::vector<float> logits = Falling();
  const Tokens prompt = {0, 2, 2, 50};
  const Tokens expected = Expected(prompt, 4, params, logits, 40);
  plan::MirroredSequence whole = Sequence(prompt, 4, params);
  EXPECT_EQ(Generate(whole, 2, 9, logits, 40), expected);
  EXPECT_GT(*std::max_element(expected.begin(), expected.end()), 5) << "or hardly anything was penalised";
  // Begun again behind some of them, at a place where others were: nothing else is known of it.
  for (const size_t done : {1, 7, 39}) {
    Tokens tokens = prompt;
    tokens.insert(tokens.end(), expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(done));
    plan::MirroredSequence again = Sequence(tokens, 4, params);
    EXPECT_EQ(Generate(again, 2, 100 + done, logits, static_cast<int>(40 - done)),
              Tokens(expected.begin() + static_cast<std::ptrdiff_t>(done), expected.end()));
  }
}

// Three at once, each alone the same; two of them have no penalties.
TEST_P(SamplerOnHost, OthersInTheStepChangeNothing) {
  plan::SamplingParams counted, forbids, plain;
  counted.frequency_penalty = 0.7f;
  forbids.bad_words = {{0, 0}, {1}};
  forbids.min_tokens = 3;
  forbids.end_tokens = {0};
  plain.temperature = 1;
  plain.seed = 5;
  const std::vector<float> logits = Falling();
  std::vector<plan::MirroredSequence> together, alone;
  for (const plan::SamplingParams& s : {counted, forbids, plain}) together.push_back(Sequence({3, 0}, 2, s));
  alone = together;
  std::vector<Tokens> apart;
  for (int32_t i = 0; i < 3; ++i) apart.push_back(Generate(alone[i], i, 10 + i, logits, 12));
  EXPECT_EQ(apart[1], (Tokens{2, 2, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0})) << "no end; then not 0 twice";
  for (int step = 0; step < 12; ++step) {
    const Tokens got = Sample({Next(together[0], 4, 20), Next(together[1], 0, 21), Next(together[2], 1, 22)}, logits);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(got[i], apart[i][static_cast<size_t>(step)]) << "row " << i << " at " << step;
      together[i].tokens.push_back(got[i]);
    }
  }
}

TEST_P(SamplerOnHost, APlaceKeepsNothingOfWhoHadItBefore) {
  plan::SamplingParams first, second;
  first.allowed_tokens = {5, 6};
  first.biases = {{6, 10}};
  first.presence_penalty = 20;
  second.allowed_tokens = {5, 6, 7};
  second.biases = {{7, 10}};
  second.presence_penalty = 20;
  const std::vector<float> logits = Falling();
  plan::MirroredSequence a = Sequence({1}, 1, first), b = Sequence({1}, 1, second);
  EXPECT_EQ(Generate(a, 3, 1, logits, 3), (Tokens{6, 5, 6}));
  EXPECT_EQ(Generate(b, 3, 2, logits, 3), (Tokens{7, 5, 6}));
}

TEST_P(SamplerOnHost, OnlyWordsOfSeveralTokensWaitForTokens) {
  plan::SamplingParams word, single;
  word.bad_words = {{4}, {0, 1}};
  single.bad_words = {{4}};
  single.min_tokens = 9;
  single.end_tokens = {2};
  plan::MirroredSequence a = Sequence({3, 0}, 2, word), b = Sequence({3, 0}, 2, single);
  const std::vector<Output> at_start = {Next(a, 0, 1), Next(b, 1, 2)};
  EXPECT_FALSE(sampler_.LacksTokens(at_start)) << "the start is known";
  std::vector<Output> next = at_start;
  for (Output& output : next) ++output.position;
  EXPECT_TRUE(sampler_.LacksTokens(next));
  EXPECT_FALSE(sampler_.LacksTokens({&next[1], 1}));
  a.tokens.push_back(8);
  EXPECT_FALSE(sampler_.LacksTokens(next));
  Output known = next[0];
  known.position += 5;
  known.forced = 7;
  EXPECT_FALSE(sampler_.LacksTokens({&known, 1}));
}

TEST_P(SamplerOnHost, LongStartsAreCountedWhole) {
  plan::SamplingParams params;
  params.frequency_penalty = 0.001f;
  std::vector<float> logits(kVocab, -1e4f);
  logits[7] = 20.0005f;
  logits[8] = 0;
  Tokens tokens(40000, 7);  // several chunks, of which the first 20000 are the prompt's
  plan::MirroredSequence sequence = Sequence(tokens, 20000, params);
  EXPECT_EQ(Generate(sequence, 0, 1, logits, 3), (Tokens{7, 8, 7})) << "20.0005 - 0.001 * 20000, then 20001";
}

}  // namespace
}  // namespace shoal::sampling
