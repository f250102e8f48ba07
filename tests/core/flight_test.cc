#include "coordinator/core/flight.h"

#include "gtest/gtest.h"

namespace shoal::core {
namespace {

plan::StepPlan Plan(uint64_t step) {
  plan::StepPlan p;
  p.stamp.step = step;
  p.rows = {{7, plan::TokenSource::kLiteral, 0, 4, plan::RowOutput::kNone, 0},
            {8, plan::TokenSource::kLiteral, 0, 4, plan::RowOutput::kSample, 0},
            {9, plan::TokenSource::kLiteral, 0, 4, plan::RowOutput::kSample, 0}};
  return p;
}

plan::StepResult Result(uint64_t step, int32_t rank = 1) {
  plan::StepResult r;
  r.stamp.step = step;
  r.rank = rank;
  if (rank == 1) r.rows = {{8, {5}, plan::RowError::kNone, {}}, {9, {6}, plan::RowError::kNone, {}}};
  return r;
}

struct FlightTest : testing::Test {
  FlightTest() {
    flight.Sent(Plan(1), mirror);
    flight.Sent(Plan(2), mirror);
  }
  Flight::Verdict Answer(const plan::StepResult& r) { return flight.Answer(r, 100, &rows, &why); }
  plan::PlanMirror mirror{
      {.blocks = 8, .block_size = 4, .max_sequences = 4, .max_tokens = 64, .max_model_len = 64, .vocab = 100}};
  Flight flight{2, 1};
  std::vector<Flight::Row> rows;
  std::string why;
};

TEST_F(FlightTest, TheSamplingRankSettlesAPlan) {
  EXPECT_EQ(flight.Count(8), 2);
  EXPECT_EQ(Answer(Result(1, 0)), Flight::Verdict::kNoted);
  EXPECT_EQ(flight.size(), 2);
  EXPECT_EQ(Answer(Result(1)), Flight::Verdict::kTokens);
  EXPECT_EQ(flight.size(), 1);
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_FALSE(rows[0].sample);
  EXPECT_EQ(rows[0].end, 4);
  EXPECT_EQ(rows[2].id, 9u);
  EXPECT_TRUE(rows[2].sample);
  EXPECT_EQ(Answer(Result(1)), Flight::Verdict::kStale);
  EXPECT_EQ(Answer(Result(1, 0)), Flight::Verdict::kStale);
  EXPECT_EQ(Answer(Result(2)), Flight::Verdict::kTokens);
  EXPECT_EQ(Answer(Result(2, 0)), Flight::Verdict::kNoted);  // later than the sampling rank
}

TEST_F(FlightTest, TheLastPlansAreRemembered) {
  for (uint64_t step = 3; step <= 40; ++step) flight.Sent(Plan(step), mirror);
  ASSERT_EQ(flight.recent().size(), Flight::kRecent);
  EXPECT_EQ(flight.recent().front().step, 41 - Flight::kRecent);
  EXPECT_EQ(flight.recent().back().step, 40u);
  EXPECT_EQ(flight.recent().back().rows, 3);
  EXPECT_EQ(flight.recent().back().tokens, 12);
  EXPECT_EQ(flight.answered(0), 0u);
  Answer(Result(1, 0));
  EXPECT_EQ(flight.answered(0), 1u);
  EXPECT_EQ(flight.answered(flight.sampling_rank()), 0u);
}

TEST_F(FlightTest, ARowThatIsNotANumberIsAnAnswer) {
  plan::StepResult r = Result(1);
  r.rows[0] = {8, {}, plan::RowError::kNotFinite, {}};
  EXPECT_EQ(Answer(r), Flight::Verdict::kTokens);
}

// A sequence that asks for log-probabilities, of its prompt, too: rows of 3 and 2 tokens, the second samples.
TEST(Flight, LogProbabilitiesComeAsTheyWereAskedFor) {
  plan::PlanMirror mirror(
      {.blocks = 8, .block_size = 4, .max_sequences = 4, .max_tokens = 64, .max_model_len = 64, .vocab = 100});
  plan::StepPlan first, second;
  first.stamp.step = 1;
  second.stamp.step = 2;
  plan::SequenceStart start;
  start.id = 7;
  start.tokens = {1, 2, 3, 4, 5};
  start.prompt_tokens = 5;
  start.sampling.logprobs = start.sampling.prompt_logprobs = 1;
  start.blocks = {0, 1};
  first.starts = {start};
  first.rows = {{7, plan::TokenSource::kLiteral, 0, 3, plan::RowOutput::kLogprobs, 0}};
  second.rows = {{7, plan::TokenSource::kLiteral, 3, 2, plan::RowOutput::kBoth, 0}};
  Flight flight(1, 0);
  for (const plan::StepPlan* p : {&first, &second}) {
    ASSERT_TRUE(mirror.Apply(*p, false).ok());
    flight.Sent(*p, mirror);
  }
  const plan::TokenLogprobs of{6, -1, 2, {9}, {-0.5f}};
  const auto answer = [&](uint64_t step, std::vector<int32_t> tokens, size_t count) {
    plan::StepResult r;
    r.stamp.step = step;
    r.rows = {{7, std::move(tokens), plan::RowError::kNone, std::vector<plan::TokenLogprobs>(count, of)}};
    return r;
  };
  std::vector<Flight::Row> rows;
  std::string why;
  plan::StepResult alien = answer(1, {}, 3), ragged = alien;
  alien.rows[0].logprobs[1].top_ids = {100};
  ragged.rows[0].logprobs[1].top_ids = {};
  for (const plan::StepResult& bad : {answer(1, {}, 2), answer(1, {}, 4), answer(1, {6}, 3), alien, ragged}) {
    EXPECT_EQ(flight.Answer(bad, 100, &rows, &why), Flight::Verdict::kBroken);
  }
  EXPECT_EQ(flight.Answer(answer(1, {}, 3), 100, &rows, &why), Flight::Verdict::kTokens) << why;
  EXPECT_EQ(rows[0].scored, 3);
  EXPECT_FALSE(rows[0].sample);
  for (const plan::StepResult& bad : {answer(2, {6}, 1), answer(2, {}, 2), answer(2, {5}, 2)}) {
    EXPECT_EQ(flight.Answer(bad, 100, &rows, &why), Flight::Verdict::kBroken);
  }
  EXPECT_EQ(flight.Answer(answer(2, {6}, 2), 100, &rows, &why), Flight::Verdict::kTokens) << why;
  EXPECT_EQ(rows[0].scored, 1);
  EXPECT_TRUE(rows[0].sample && rows[0].logprobs);
}

TEST_F(FlightTest, WhatBreaksTheRulesChangesNothing) {
  std::vector<plan::StepResult> bad(9, Result(1));
  bad[0].stamp.step = 2;  // skips one
  bad[1].error = "the mirrors differ";
  bad[2].rows.pop_back();
  bad[3].rows.push_back({7, {1}, plan::RowError::kNone, {}});
  bad[4].rows[0].id = 7;
  bad[5].rows[0].tokens = {};
  bad[6].rows[0].tokens = {1, 2};
  bad[7].rows[0].tokens = {100};
  bad[8].rows[0].tokens = {-1};
  for (size_t i = 0; i < bad.size(); ++i) {
    EXPECT_EQ(Answer(bad[i]), Flight::Verdict::kBroken) << i;
    EXPECT_FALSE(why.empty()) << i;
    EXPECT_EQ(flight.size(), 2);
  }
  EXPECT_EQ(Answer(Result(1)), Flight::Verdict::kTokens);
  EXPECT_EQ(Answer(Result(2)), Flight::Verdict::kTokens);
  EXPECT_EQ(Answer(Result(3)), Flight::Verdict::kBroken);  // never sent
}

}  // namespace
}  // namespace shoal::core
