#include "common/plan/plan_check.h"

#include <functional>
#include <limits>
#include <string>

#include "gtest/gtest.h"

namespace shoal::plan {
namespace {

constexpr MirrorLimits kLimits{
    .blocks = 16, .block_size = 4, .max_sequences = 3, .max_tokens = 16, .max_model_len = 20, .vocab = 100};

SequenceStart MakeStart(SequenceId id, std::vector<int32_t> tokens, std::vector<int32_t> blocks,
                        int32_t kv_tokens = 0) {
  SequenceStart s;
  s.id = id;
  s.prompt_tokens = static_cast<int32_t>(tokens.size());
  s.tokens = std::move(tokens);
  s.blocks = std::move(blocks);
  s.kv_tokens = kv_tokens;
  return s;
}

Row Literal(SequenceId id, int32_t position, int32_t count, bool sample) {
  return {id, TokenSource::kLiteral, position, count, sample ? RowOutput::kSample : RowOutput::kNone, 0};
}

Row Last(SequenceId id, int32_t position) { return {id, TokenSource::kLastSample, position, 1, RowOutput::kSample, 0}; }

// Plan 1: sequence 1 (6 tokens, all computed, one sampled) in blocks 0 1; sequence 2 (5 tokens, 4 computed) in 2 3.
StepPlan First() {
  StepPlan p;
  p.stamp.step = 1;
  p.starts = {MakeStart(1, {10, 11, 12, 13, 14, 15}, {0, 1}), MakeStart(2, {20, 21, 22, 23, 24}, {2, 3})};
  p.rows = {Literal(1, 0, 6, true), Literal(2, 0, 4, false)};
  return p;
}

// A good plan 2: both go on, sequence 3 starts.
StepPlan Second() {
  StepPlan p;
  p.stamp.step = 2;
  p.starts = {MakeStart(3, {30, 31}, {4})};
  p.rows = {Last(1, 6), Literal(2, 4, 1, true), Literal(3, 0, 2, true)};
  return p;
}

PlanMirror AfterFirst() {
  PlanMirror mirror(kLimits);
  const absl::Status status = mirror.Apply(First(), false);
  EXPECT_TRUE(status.ok()) << status;
  return mirror;
}

TEST(PlanCheck, AppliesStartsRowsBlocksAndEnds) {
  PlanMirror mirror = AfterFirst();
  ASSERT_TRUE(mirror.Apply(Second(), false).ok());
  EXPECT_EQ(mirror.size(), 3u);
  const MirroredSequence* one = mirror.Find(1);
  EXPECT_EQ(one->length, 8);
  EXPECT_EQ(one->computed, 7);
  EXPECT_EQ(one->last_sample_step, 2u);
  EXPECT_EQ(one->tokens.size(), 6u);
  mirror.RecordSample(1, 42);
  EXPECT_EQ(one->tokens.back(), 42);
  EXPECT_EQ(mirror.Find(2)->length, 6);

  StepPlan p;
  p.stamp.step = 3;
  p.ends = {2};
  p.blocks_added = {{1, {2}}};  // of the sequence that ends in this very plan
  p.rows = {Last(1, 7)};
  ASSERT_TRUE(mirror.Apply(p, false).ok());
  EXPECT_EQ(mirror.Find(2), nullptr);
  EXPECT_EQ(one->blocks, (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(mirror.BlockRefs(2), 1);
  EXPECT_EQ(mirror.BlockRefs(3), 0);
  p.stamp.step = 4;
  p.ends.clear();
  p.blocks_added.clear();
  p.rows = {Last(1, 8)};
  EXPECT_TRUE(mirror.Apply(p, false).ok());
}

TEST(PlanCheck, CountsTokensAndSamples) {
  EXPECT_EQ(Second().TokenCount(), 4);
  EXPECT_EQ(Second().SampleCount(), 3);
  EXPECT_EQ(First().SampleCount(), 1);
}

struct Violation {
  const char* rule;  // a part of the message
  std::function<void(StepPlan&)> make;
};

std::vector<Violation> SequenceViolations() {
  return {
      {"consecutive", [](StepPlan& p) { p.stamp.step = 3; }},
      {"consecutive", [](StepPlan& p) { p.stamp.step = 1; }},
      {"no rows", [](StepPlan& p) { p.rows.clear(); }},
      {"sequence 9: ends, but", [](StepPlan& p) { p.ends = {9}; }},
      {"sequence 2: ends twice",
       [](StepPlan& p) {
         p.ends = {2, 2};
         p.rows.erase(p.rows.begin() + 1);
       }},
      {"sequence 2: has a row, but", [](StepPlan& p) { p.ends = {2}; }},
      {"sequence 2: gets blocks, but",
       [](StepPlan& p) {
         p.ends = {2};
         p.blocks_added = {{2, {7}}};
       }},
      {"sequence 1: starts, but its id", [](StepPlan& p) { p.starts[0].id = 1; }},
      {"id is in use",
       [](StepPlan& p) {
         p.ends = {1};
         p.starts[0].id = 1;
       }},
      {"at most 3 may run", [](StepPlan& p) { p.starts.push_back(MakeStart(4, {1}, {9})); }},
      {"starts with 0 tokens", [](StepPlan& p) { p.starts[0].tokens.clear(); }},
      {"starts with 21 tokens", [](StepPlan& p) { p.starts[0].tokens.assign(21, 1); }},
      {"token 100 is not", [](StepPlan& p) { p.starts[0].tokens[1] = 100; }},
      {"token -1 is not", [](StepPlan& p) { p.starts[0].tokens[0] = -1; }},
      {"3 prompt tokens of 2", [](StepPlan& p) { p.starts[0].prompt_tokens = 3; }},
      {"0 prompt tokens", [](StepPlan& p) { p.starts[0].prompt_tokens = 0; }},
      {"at least the last is computed", [](StepPlan& p) { p.starts[0].kv_tokens = 2; }},
      {"KV of -1", [](StepPlan& p) { p.starts[0].kv_tokens = -1; }},
      {"do not cover the KV",
       [](StepPlan& p) {
         p.starts[0].kv_tokens = 1;
         p.starts[0].blocks.clear();
       }},
  };
}

std::vector<Violation> BlockViolations() {
  return {
      {"block 16 does not exist", [](StepPlan& p) { p.starts[0].blocks = {16}; }},
      {"block -1 does not exist",
       [](StepPlan& p) {
         p.blocks_added = {{1, {-1}}};
       }},
      {"block 3 is in another table", [](StepPlan& p) { p.starts[0].blocks = {3}; }},
      {"block 3 is in another table",
       [](StepPlan& p) {
         p.blocks_added = {{1, {3}}};
       }},
      {"block 7 is in another table",
       [](StepPlan& p) {
         p.blocks_added = {{1, {7}}, {2, {7}}};
       }},
      {"block 4 is in another table",
       [](StepPlan& p) {
         p.starts[0].blocks = {4, 4};
       }},
      {"empty list of blocks",
       [](StepPlan& p) {
         p.blocks_added = {{1, {}}};
       }},
      {"more blocks than 20 tokens",
       [](StepPlan& p) {
         p.blocks_added = {{1, {5, 6, 7, 8}}};
       }},
      {"sequence 9: gets blocks",
       [](StepPlan& p) {
         p.blocks_added = {{9, {7}}};
       }},
      {"no such block",
       [](StepPlan& p) {
         p.copies = {{16, 4}};
       }},
      {"no such block",
       [](StepPlan& p) {
         p.copies = {{0, -1}};
       }},
      {"no table gained the target",
       [](StepPlan& p) {
         p.copies = {{0, 2}};
       }},
      {"no table gained the target",
       [](StepPlan& p) {
         p.copies = {{0, 9}};
       }},
      {"the target is named twice",
       [](StepPlan& p) {
         p.copies = {{0, 4}, {1, 4}};
       }},
      {"a target, too",
       [](StepPlan& p) {
         p.blocks_added = {{1, {5}}};
         p.copies = {{4, 5}, {0, 4}};
       }},
      {"a target, too",
       [](StepPlan& p) {
         p.copies = {{4, 4}};
       }},
      {"writes block 0 that others hold",
       [](StepPlan& p) {  // shares the block of sequence 1, and would write its last position
         p.starts[0] = MakeStart(3, {10, 11, 12, 13}, {0}, 3);
         p.rows[2] = Literal(3, 3, 1, true);
       }},
  };
}

std::vector<Violation> RowViolations() {
  return {
      {"sequence 9: has a row", [](StepPlan& p) { p.rows[0].id = 9; }},
      {"sequence 1: has two rows", [](StepPlan& p) { p.rows.push_back(Last(1, 7)); }},
      {"a row of 0 tokens", [](StepPlan& p) { p.rows[2].count = 0; }},
      {"a row of 17 tokens", [](StepPlan& p) { p.rows[2].count = 17; }},
      {"KV ends at 4", [](StepPlan& p) { p.rows[1].position = 3; }},
      {"KV ends at 6", [](StepPlan& p) { p.rows[0].position = 7; }},
      {"a literal row beyond", [](StepPlan& p) { p.rows[0] = Literal(1, 6, 1, true); }},
      {"a literal row beyond", [](StepPlan& p) { p.rows[1].count = 2; }},
      {"a last-sample row of 2", [](StepPlan& p) { p.rows[0].count = 2; }},
      {"nothing was sampled", [](StepPlan& p) { p.rows[1] = Last(2, 4); }},
      {"samples at 1 of 2", [](StepPlan& p) { p.rows[2].count = 1; }},
      {"do not cover 2 tokens", [](StepPlan& p) { p.starts[0].blocks.clear(); }},
      {"tokens in one plan, at most 16",
       [](StepPlan& p) {
         p.starts[0] = MakeStart(3, std::vector<int32_t>(15, 1), {4, 5, 6, 7});
         p.rows[2] = Literal(3, 0, 15, true);
       }},
  };
}

std::vector<Violation> LaterFeatures() {
  return {
      {"token source is not supported", [](StepPlan& p) { p.rows[0].source = TokenSource::kDrafts; }},
      {"token source is not supported", [](StepPlan& p) { p.rows[0].source = TokenSource::kEmbeddings; }},
      {"row output is not supported", [](StepPlan& p) { p.rows[0].output = RowOutput::kPooled; }},
      {"adapters are not supported", [](StepPlan& p) { p.rows[0].adapter = 1; }},
      {"grammars", [](StepPlan& p) { p.starts[0].sampling.grammar = 7; }},
      {"temperature", [](StepPlan& p) { p.starts[0].sampling.temperature = -1; }},
      {"temperature", [](StepPlan& p) { p.starts[0].sampling.temperature = std::numeric_limits<float>::quiet_NaN(); }},
      {"top_k", [](StepPlan& p) { p.starts[0].sampling.top_k = -1; }},
      {"top_p", [](StepPlan& p) { p.starts[0].sampling.top_p = 0; }},
      {"top_p", [](StepPlan& p) { p.starts[0].sampling.top_p = 1.5f; }},
      {"min_p", [](StepPlan& p) { p.starts[0].sampling.min_p = 2; }},
  };
}

// Each violation alone: refused with the rule's name, and nothing has changed, so that the good plan still applies.
void ExpectRefused(const std::vector<Violation>& violations) {
  PlanMirror reference = AfterFirst();
  ASSERT_TRUE(reference.Apply(Second(), false).ok());
  for (const Violation& v : violations) {
    SCOPED_TRACE(v.rule);
    PlanMirror mirror = AfterFirst();
    const uint64_t digest = mirror.digest();
    StepPlan plan = Second();
    v.make(plan);
    const absl::Status status = mirror.Apply(plan, false);
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(status.message()).find(v.rule), std::string::npos) << status;
    EXPECT_EQ(mirror.digest(), digest);
    EXPECT_EQ(mirror.size(), 2u);
    ASSERT_TRUE(mirror.Apply(Second(), false).ok());
    EXPECT_EQ(mirror.digest(), reference.digest());
    for (int32_t b = 0; b < kLimits.blocks; ++b) EXPECT_EQ(mirror.BlockRefs(b), reference.BlockRefs(b)) << b;
    for (SequenceId id : {1, 2, 3}) EXPECT_EQ(mirror.Find(id)->blocks, reference.Find(id)->blocks);
  }
}

TEST(PlanCheck, RefusesBrokenSequences) { ExpectRefused(SequenceViolations()); }
TEST(PlanCheck, RefusesBrokenBlocks) { ExpectRefused(BlockViolations()); }
TEST(PlanCheck, RefusesBrokenRows) { ExpectRefused(RowViolations()); }
// Each with what the error has to name.
std::vector<Violation> SamplingViolations() {
  std::vector<Violation> out;
  const auto add = [&](const char* rule, std::function<void(SamplingParams&)> make) {
    out.push_back({rule, [make = std::move(make)](StepPlan& p) { make(p.starts[0].sampling); }});
  };
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {0.0f, -1.0f, 101.0f, nan, infinity}) {
    add("repetition_penalty", [bad](SamplingParams& s) { s.repetition_penalty = bad; });
  }
  for (const float bad : {-101.0f, 101.0f, nan, -infinity}) {
    add("presence_penalty", [bad](SamplingParams& s) { s.presence_penalty = bad; });
    add("frequency_penalty", [bad](SamplingParams& s) { s.frequency_penalty = bad; });
  }
  for (const float bad : {2e6f, -2e6f, nan, infinity}) {
    add("biases", [bad](SamplingParams& s) { s.biases = {{3, bad}}; });
  }
  for (const int32_t bad : {-2, 21}) {
    add("logprobs", [bad](SamplingParams& s) { s.logprobs = bad; });
    add("prompt_logprobs", [bad](SamplingParams& s) { s.prompt_logprobs = bad; });
  }
  add("min_tokens", [](SamplingParams& s) { s.min_tokens = -1; });
  for (const std::vector<int32_t>& bad : {std::vector<int32_t>{4, 3}, {4, 4}, {100}, {-1}}) {
    add("end_tokens", [bad](SamplingParams& s) { s.end_tokens = bad; });
    add("allowed_tokens", [bad](SamplingParams& s) { s.allowed_tokens = bad; });
    add("biases", [bad](SamplingParams& s) {
      for (const int32_t id : bad) s.biases.push_back({id, 1});
    });
  }
  add("allowed_tokens", [](SamplingParams& s) { s.allowed_tokens.resize(kMaxAllowedTokens + 1); });
  add("end_tokens", [](SamplingParams& s) { s.end_tokens.resize(kMaxEndTokens + 1); });
  add("biases", [](SamplingParams& s) { s.biases.resize(kMaxTokenBiases + 1); });
  add("bad_words", [](SamplingParams& s) { s.bad_words.assign(kMaxBadWords + 1, {1}); });
  add("bad_words", [](SamplingParams& s) { s.bad_words = {{1}, {}}; });
  add("bad_words", [](SamplingParams& s) { s.bad_words = {std::vector<int32_t>(kMaxBadWordTokens + 1)}; });
  add("bad_words", [](SamplingParams& s) { s.bad_words = {{1, 100}}; });
  return out;
}

TEST(PlanCheck, RefusesSamplingOutOfBounds) { ExpectRefused(SamplingViolations()); }

TEST(PlanCheck, TakesSamplingWithinItsBounds) {
  StepPlan plan = Second();
  SamplingParams& s = plan.starts[0].sampling;
  s.repetition_penalty = 1.1f;
  s.presence_penalty = -2;
  s.frequency_penalty = 2;
  s.min_tokens = 1 << 30;
  s.end_tokens = {0, 1, 99};
  s.allowed_tokens = {5, 99};
  s.biases = {{0, -100}, {99, 1e6f}};
  s.bad_words = {{1}, {1, 2, 99}};
  s.logprobs = 0;
  s.prompt_logprobs = 20;
  PlanMirror mirror = AfterFirst();
  ASSERT_TRUE(mirror.Apply(plan, false).ok());
  EXPECT_EQ(mirror.Find(3)->sampling.bad_words, s.bad_words);
}

// Sequence 3, of 6 tokens, asks for those of its prompt. It is the only one in plan 2.
StepPlan AsksForLogprobs(int32_t count, RowOutput output) {
  StepPlan p;
  p.stamp.step = 2;
  p.starts = {MakeStart(3, {30, 31, 32, 33, 34, 35}, {4, 5})};
  p.starts[0].sampling.prompt_logprobs = 2;
  p.rows = {{3, TokenSource::kLiteral, 0, count, output, 0}};
  return p;
}

TEST(PlanCheck, LogprobsOfKnownTokens) {
  const auto refusal = [](const StepPlan& plan) { return std::string(AfterFirst().Apply(plan, false).message()); };
  PlanMirror mirror = AfterFirst();
  ASSERT_TRUE(mirror.Apply(AsksForLogprobs(3, RowOutput::kLogprobs), false).ok());
  EXPECT_EQ(mirror.Find(3)->length, 6) << "nothing was sampled";
  StepPlan rest;
  rest.stamp.step = 3;
  rest.rows = {{3, TokenSource::kLiteral, 3, 3, RowOutput::kBoth, 0}};
  ASSERT_TRUE(mirror.Apply(rest, false).ok());
  EXPECT_EQ(mirror.Find(3)->length, 7);
  EXPECT_EQ(mirror.Find(3)->last_sample_step, 3u);
  EXPECT_EQ(rest.SampleCount(), 1);
  EXPECT_EQ(OutputCount(rest), 3);
  StepPlan last = rest;
  last.stamp.step = 4;
  last.rows = {{3, TokenSource::kLastSample, 6, 1, RowOutput::kBoth, 0}};
  EXPECT_NE(std::string(mirror.Apply(last, false).message()).find("not literal"), std::string::npos);

  EXPECT_NE(refusal(AsksForLogprobs(2, RowOutput::kBoth)).find("samples at 2"), std::string::npos);
  StepPlan plan = AsksForLogprobs(3, RowOutput::kLogprobs);
  plan.starts[0].tokens.resize(3);
  plan.starts[0].prompt_tokens = 3;
  EXPECT_NE(refusal(plan).find("of the token at 3, it starts with 3"), std::string::npos) << "not known";
  plan.rows[0].count = 2;
  EXPECT_TRUE(AfterFirst().Apply(plan, false).ok());
  plan.starts[0].sampling.prompt_logprobs = -1;
  EXPECT_NE(refusal(plan).find("nobody asked for"), std::string::npos);
}

TEST(PlanCheck, OutputsAreAtMostAsManyAsSequences) {
  StepPlan plan = AsksForLogprobs(4, RowOutput::kLogprobs);
  EXPECT_EQ(OutputCount(plan), 4);
  const absl::Status status = AfterFirst().Apply(plan, false);
  EXPECT_EQ(status.message(), "4 outputs in one plan, at most 3");
  plan.rows[0].count = 3;
  EXPECT_TRUE(AfterFirst().Apply(plan, false).ok());
  plan.rows.push_back(Last(1, 6));
  EXPECT_FALSE(AfterFirst().Apply(plan, false).ok());
  plan.rows[0].count = 2;
  EXPECT_TRUE(AfterFirst().Apply(plan, false).ok());
  EXPECT_EQ(BucketOf(plan, kLimits), 0);
}

TEST(PlanCheck, RefusesLaterFeaturesAndBadSampling) { ExpectRefused(LaterFeatures()); }

TEST(PlanCheck, ABucketHoldsRowsThatAllSampleOneToken) {
  const auto apply = [](int32_t bucket, const std::function<void(StepPlan&)>& change) {
    PlanMirror mirror(kLimits);
    StepPlan plan;
    plan.stamp.step = 1;
    plan.starts = {MakeStart(1, {10}, {0})};
    plan.rows = {Literal(1, 0, 1, true)};
    plan.bucket = bucket;
    change(plan);
    return mirror.Apply(plan, false).code();
  };
  const auto nothing = [](StepPlan&) {};
  const int32_t most = std::min(kLimits.max_tokens, kLimits.max_sequences);
  EXPECT_EQ(apply(1, nothing), absl::StatusCode::kOk);
  EXPECT_EQ(apply(most, nothing), absl::StatusCode::kOk);
  EXPECT_EQ(apply(most + 1, nothing), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(apply(-1, nothing), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(apply(1, [](StepPlan& p) { p.checksum = true; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(apply(1, [](StepPlan& p) { p.rows[0].output = RowOutput::kNone; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(apply(3, [](StepPlan& p) { p = First(), p.bucket = 3; }), absl::StatusCode::kInvalidArgument);
}

TEST(PlanCheck, GraphBucketsHoldTheirRows) {
  EXPECT_EQ(GraphBucket(1, 256), 1);
  EXPECT_EQ(GraphBucket(3, 256), 4);
  EXPECT_EQ(GraphBucket(17, 256), 20);
  EXPECT_EQ(GraphBucket(33, 256), 40);
  EXPECT_EQ(GraphBucket(129, 256), 160);
  EXPECT_EQ(GraphBucket(97, 100), 100);
  EXPECT_EQ(GraphBucket(101, 100), 0);
  for (int32_t rows = 1; rows <= 1000; ++rows) {
    const int32_t bucket = GraphBucket(rows, 1000);
    EXPECT_GE(bucket, rows);
    EXPECT_EQ(GraphBucket(bucket, 1000), bucket);
    EXPECT_LE(bucket, std::max(rows + 3, rows * 5 / 4)) << rows;
  }
}

TEST(PlanCheck, RefusesToGrowBeyondTheModelLength) {
  PlanMirror mirror(kLimits);
  StepPlan p;
  p.stamp.step = 1;
  p.starts = {MakeStart(1, std::vector<int32_t>(20, 5), {0, 1, 2, 3, 4}, 10)};
  p.rows = {Literal(1, 10, 10, true)};
  const absl::Status status = mirror.Apply(p, false);
  EXPECT_NE(std::string(status.message()).find("longer than 20"), std::string::npos) << status;
  p.rows[0].output = RowOutput::kNone;
  EXPECT_TRUE(mirror.Apply(p, false).ok());
}

TEST(PlanCheck, RefusesALastSampleTwice) {
  PlanMirror mirror = AfterFirst();
  StepPlan p;
  p.stamp.step = 2;
  p.rows = {Last(1, 6)};
  p.rows[0].output = RowOutput::kNone;
  ASSERT_TRUE(mirror.Apply(p, false).ok());
  p.stamp.step = 3;
  p.rows = {Last(1, 7)};
  const absl::Status status = mirror.Apply(p, false);
  EXPECT_NE(std::string(status.message()).find("not at the end"), std::string::npos) << status;
}

TEST(PlanCheck, SharesBlocksThatHoldKvAtAStart) {
  PlanMirror mirror = AfterFirst();
  StepPlan p = Second();
  p.starts[0] = MakeStart(3, {10, 11, 12, 13, 99}, {0, 4}, 4);
  p.rows[2] = Literal(3, 4, 1, true);
  ASSERT_TRUE(mirror.Apply(p, false).ok());
  EXPECT_EQ(mirror.BlockRefs(0), 2);
  p = StepPlan{};
  p.stamp.step = 3;
  p.ends = {1};
  p.rows = {Last(3, 5)};
  ASSERT_TRUE(mirror.Apply(p, false).ok());
  EXPECT_EQ(mirror.BlockRefs(0), 1);
}

// After a loss of the ranks: all of them begin with what they shared.
TEST(PlanCheck, StartsOfOnePlanMayHoldABlockThatAllHaveKvIn) {
  const std::vector<int32_t> tokens = {10, 11, 12, 13, 14};
  const auto plan = [&](std::vector<int32_t> first, std::vector<int32_t> second, int32_t kv) {
    StepPlan p;
    p.stamp.step = 1;
    p.starts = {MakeStart(1, tokens, std::move(first), 4), MakeStart(2, tokens, std::move(second), kv)};
    p.rows = {Literal(1, 4, 1, true), Literal(2, kv, 5 - kv, true)};
    PlanMirror mirror(kLimits);
    return mirror.Apply(p, false);
  };
  EXPECT_TRUE(plan({0, 1}, {0, 2}, 4).ok());
  EXPECT_FALSE(plan({0, 1}, {0, 2}, 0).ok());  // the second one would write it
  EXPECT_FALSE(plan({0, 1}, {1, 2}, 4).ok());  // the first one writes it in this plan
  EXPECT_FALSE(plan({0, 0}, {3, 2}, 4).ok());
}

TEST(PlanCheck, CopiesIntoBlocksGainedInThePlan) {
  PlanMirror mirror = AfterFirst();
  StepPlan p = Second();  // copy on write: the KV of tokens 4, 5 of sequence 1 is copied, token 6 differs
  p.starts[0] = MakeStart(3, {10, 11, 12, 13, 14, 15, 99}, {0, 4}, 6);
  p.copies = {{1, 4}};
  p.rows[2] = Literal(3, 6, 1, true);
  EXPECT_TRUE(mirror.Apply(p, false).ok());
}

TEST(PlanCheck, DigestTellsMirrorsApart) {
  PlanMirror sender(kLimits), receiver(kLimits), wrong(kLimits);
  StepPlan p = First();
  ASSERT_TRUE(sender.Apply(p, false).ok());
  p.mirror_digest = sender.digest();
  EXPECT_NE(p.mirror_digest, 0u);
  EXPECT_TRUE(receiver.Apply(p, true).ok());
  StepPlan other = p;
  std::swap(other.starts[0].blocks[0], other.starts[0].blocks[1]);
  const absl::Status status = wrong.Apply(other, true);
  EXPECT_NE(std::string(status.message()).find("mirrors differ"), std::string::npos) << status;
  EXPECT_EQ(wrong.size(), 0u);
  EXPECT_EQ(wrong.digest(), 0u);
  EXPECT_TRUE(wrong.Apply(p, true).ok());

  // The order in which sequences came does not matter.
  PlanMirror reversed(kLimits);
  StepPlan turned = First();
  std::swap(turned.starts[0], turned.starts[1]);
  ASSERT_TRUE(reversed.Apply(turned, false).ok());
  EXPECT_EQ(reversed.digest(), sender.digest());
}

TEST(PlanCheck, EndingEverythingGivesTheEmptyDigest) {
  PlanMirror mirror = AfterFirst(), empty(kLimits);
  StepPlan p;
  p.stamp.step = 2;
  p.ends = {1, 2};
  p.starts = {MakeStart(3, {30, 31}, {0})};
  p.rows = {Literal(3, 0, 2, false)};
  ASSERT_TRUE(mirror.Apply(p, false).ok());
  StepPlan alone = p;
  alone.stamp.step = 1;
  alone.ends.clear();
  ASSERT_TRUE(empty.Apply(alone, false).ok());
  EXPECT_EQ(mirror.digest(), empty.digest());
}

TEST(PlanCheck, BlocksForRoundsUp) {
  EXPECT_EQ(BlocksFor(0, 4), 0);
  EXPECT_EQ(BlocksFor(1, 4), 1);
  EXPECT_EQ(BlocksFor(4, 4), 1);
  EXPECT_EQ(BlocksFor(5, 4), 2);
}

TEST(PlanCheck, LimitsAreChecked) {
  EXPECT_TRUE(CheckLimits(kLimits).ok());
  const auto refused = [](int32_t MirrorLimits::*field, int32_t value) {
    MirrorLimits limits = kLimits;
    limits.*field = value;
    return !CheckLimits(limits).ok();
  };
  EXPECT_TRUE(refused(&MirrorLimits::blocks, 0));
  EXPECT_TRUE(refused(&MirrorLimits::blocks, std::numeric_limits<int32_t>::max()));
  EXPECT_TRUE(refused(&MirrorLimits::block_size, 0));
  EXPECT_TRUE(refused(&MirrorLimits::block_size, 5000));
  EXPECT_TRUE(refused(&MirrorLimits::max_sequences, -1));
  EXPECT_TRUE(refused(&MirrorLimits::max_tokens, 0));
  EXPECT_TRUE(refused(&MirrorLimits::max_model_len, 0));
  EXPECT_TRUE(refused(&MirrorLimits::vocab, 0));
}

}  // namespace
}  // namespace shoal::plan
