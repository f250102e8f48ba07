#include "worker/rank/row_results.h"

#include <gtest/gtest.h>

#include <cmath>

namespace shoal::rank {
namespace {

using Tokens = std::vector<int32_t>;

// Three samples (of sequences 4, 5 and 6) and two known tokens (of 6); 5 and 6 want log-probabilities.
struct Step {
  Step() : logprobs(4) {
    for (size_t i = 0; i < logprobs.size(); ++i) {
      const auto n = static_cast<int32_t>(i);
      logprobs[i] = {.logprob = -0.5f - static_cast<float>(i), .rank = n + 1, .top_ids = {}, .top_logprobs = {}};
      for (int32_t t = 0; t < ops::kMaxTopLogprobs; ++t) {
        const bool is = t < 3;  // more are not there
        logprobs[i].top_ids[t] = is ? 10 * n + t : -1;
        logprobs[i].top_logprobs[t] = is ? -static_cast<float>(t) : -INFINITY;
      }
    }
    step.rows = {{.id = 6, .sample = 0, .known_first = 3, .known = 2}, {.id = 4, .sample = 1}, {.id = 5, .sample = 2}};
    step.tokens = tokens;
    step.known = {80, 81};
    step.tops = {2, -1, 0, 20, 20};
  }
  // The second has none: what is fetched is the stretch of all that do.
  std::vector<plan::RowResult> Results() {
    logprobs.insert(logprobs.begin() + 1, ops::SampleLogprobs{});
    step.logprobs = logprobs;
    return RowResultsOf(step);
  }

  Tokens tokens = {60, 40, 50};
  std::vector<ops::SampleLogprobs> logprobs;
  EnqueuedStep step;
};

TEST(RowResultsTest, KnownTokensComeBeforeTheSample) {
  const std::vector<plan::RowResult> rows = Step().Results();
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0].id, 6u);
  EXPECT_EQ(rows[0].tokens, Tokens{60});
  ASSERT_EQ(rows[0].logprobs.size(), 3u);
  EXPECT_EQ(rows[0].logprobs[0], (plan::TokenLogprobs{80, -2.5f, 3, {20, 21, 22}, {0, -1, -2}}));
  EXPECT_EQ(rows[0].logprobs[1], (plan::TokenLogprobs{81, -3.5f, 4, {30, 31, 32}, {0, -1, -2}}));
  EXPECT_EQ(rows[0].logprobs[2], (plan::TokenLogprobs{60, -0.5f, 1, {0, 1}, {0, -1}}));
  EXPECT_EQ(rows[1].tokens, Tokens{40});
  EXPECT_TRUE(rows[1].logprobs.empty());
  ASSERT_EQ(rows[2].logprobs.size(), 1u);
  EXPECT_EQ(rows[2].logprobs[0], (plan::TokenLogprobs{50, -1.5f, 2, {}, {}}));
}

TEST(RowResultsTest, ARowWithoutTokenOrFiniteLogitsHasAnErrorAndNothingElse) {
  Step none;
  none.tokens[0] = -1;
  Step known;
  known.logprobs[3].rank = 0;
  for (const std::vector<plan::RowResult>& rows : {none.Results(), known.Results()}) {
    EXPECT_EQ(rows[0].error, plan::RowError::kNotFinite);
    EXPECT_TRUE(rows[0].tokens.empty());
    EXPECT_TRUE(rows[0].logprobs.empty());
    EXPECT_EQ(rows[1].error, plan::RowError::kNone);
    EXPECT_EQ(rows[2].tokens, Tokens{50});
  }
}

TEST(RowResultsTest, WhereNobodyWantsLogprobsThereAreNone) {
  const Tokens tokens = {7};
  EnqueuedStep step;
  step.rows = {{.id = 1, .sample = 0}};
  step.tokens = tokens;
  const std::vector<plan::RowResult> rows = RowResultsOf(step);
  EXPECT_EQ(rows[0].tokens, Tokens{7});
  EXPECT_TRUE(rows[0].logprobs.empty());
}

}  // namespace
}  // namespace shoal::rank
