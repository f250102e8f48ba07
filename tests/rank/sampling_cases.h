// Requests with everything that a sample may depend on, and the one thing to be held of each: its tokens and
// log-probabilities are the same alone, among others, in any chunks, and from any point on where it is begun again.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "common/base/rng.h"
#include "tests/cluster/harness/driver.h"

namespace shoal::testing {

inline std::vector<int32_t> PromptIds(int count, int seed, int spread) {
  std::vector<int32_t> ids(count);
  for (int i = 0; i < count; ++i) ids[i] = 3 + static_cast<int32_t>(RandomBits(seed, 2, i) % spread);
  return ids;
}

// Prompts of few ids, so that they repeat; words of such ids.
inline std::vector<TestRequest> SamplingCases(int new_tokens) {
  std::vector<TestRequest> out(6);
  for (int i = 0; i < 6; ++i) {
    out[i].prompt = PromptIds(4 + 3 * i, i, 24);
    out[i].new_tokens = new_tokens - i;
    out[i].sampling.seed = 70 + i;
  }
  plan::SamplingParams& penalties = out[0].sampling;
  penalties.repetition_penalty = 1.3f;
  penalties.presence_penalty = 0.4f;
  penalties.frequency_penalty = 0.25f;
  penalties.logprobs = 3;
  plan::SamplingParams& words = out[1].sampling;  // few ids are left, so that their pairs come all the time
  words.temperature = 2;
  words.allowed_tokens = {3, 4, 5, 6, 200};
  words.bad_words = {{3, 4}, {4, 4}, {5, 3, 6}, {6}, {200, 5}, {3, 3}};
  words.logprobs = 0;
  plan::SamplingParams& ends = out[2].sampling;
  ends.temperature = 1;
  ends.min_tokens = 5;
  ends.end_tokens = {4, 9, 200};
  ends.biases = {{4, 4}, {9, 5}, {200, 6}};
  ends.prompt_logprobs = 2;
  plan::SamplingParams& all = out[3].sampling;
  all.temperature = 0.8f;
  all.top_p = 0.95f;
  all.frequency_penalty = 0.5f;
  all.biases = {{3, 1.5f}, {50, 3}, {51, -2}};
  all.bad_words = {{50, 50}, {7}, {50, 3}};
  all.logprobs = 20;
  all.prompt_logprobs = 0;
  out[5].sampling.temperature = 0.9f;  // 4 and 5 want nothing
  return out;
}

// Makes engines that are new, and runs the requests on them.
using RunCases =
    std::function<absl::StatusOr<DriverResult>(const std::vector<TestRequest>& requests, const DriverOptions& options)>;

inline void ExpectSameCases(const DriverResult& expected, const DriverResult& got) {
  ASSERT_EQ(expected.tokens.size(), got.tokens.size());
  for (size_t i = 0; i < expected.tokens.size(); ++i) {
    EXPECT_EQ(expected.tokens[i], got.tokens[i]) << "request " << i;
    EXPECT_EQ(expected.logprobs[i], got.logprobs[i]) << "request " << i;  // to the bit: floats compare equal
    EXPECT_EQ(got.errors[i], plan::RowError::kNone) << "request " << i;
  }
}

// Alone, each is what it is among the others.
inline void ExpectSameAlone(const std::vector<TestRequest>& cases, const DriverResult& together, const RunCases& run) {
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(i);
    const auto alone = run({cases[i]}, {});
    ASSERT_TRUE(alone.ok()) << alone.status();
    EXPECT_EQ(alone->tokens[0], together.tokens[i]);
    EXPECT_EQ(alone->logprobs[0], together.logprobs[i]);
  }
}

// Whatever is lost between two steps, the rest is as if nothing was: after each step once.
inline void ExpectSameBegunAgain(const std::vector<TestRequest>& cases, const DriverResult& whole, const RunCases& run,
                                 int every) {
  for (int done = 1; done < cases[0].new_tokens; done += every) {
    SCOPED_TRACE(done);
    std::vector<TestRequest> again;
    std::vector<size_t> of;
    for (size_t i = 0; i < cases.size(); ++i) {
      if (done >= cases[i].new_tokens) continue;
      TestRequest& rest = again.emplace_back(cases[i]);
      rest.generated.assign(whole.tokens[i].begin(), whole.tokens[i].begin() + done);
      rest.new_tokens -= done;
      rest.sampling.prompt_logprobs = -1;  // they were told
      of.push_back(i);
    }
    const auto got = run(again, {.chunk = 6});
    ASSERT_TRUE(got.ok()) << got.status();
    for (size_t k = 0; k < of.size(); ++k) {
      const size_t i = of[k];
      EXPECT_EQ(got->tokens[k], std::vector<int32_t>(whole.tokens[i].begin() + done, whole.tokens[i].end())) << i;
      const auto new_ones = static_cast<std::ptrdiff_t>(got->logprobs[k].size());
      EXPECT_EQ(new_ones, cases[i].sampling.logprobs < 0 ? 0 : cases[i].new_tokens - done);
      EXPECT_EQ(got->logprobs[k],
                std::vector<plan::TokenLogprobs>(whole.logprobs[i].end() - new_ones, whole.logprobs[i].end()))
          << i;
    }
  }
}

// What was asked for came: no bad word, no early end, as many log-probabilities as tokens, of the right tokens.
inline void ExpectCasesKept(const std::vector<TestRequest>& cases, const DriverResult& got) {
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(i);
    const plan::SamplingParams& s = cases[i].sampling;
    std::vector<int32_t> tokens = cases[i].prompt;
    const size_t prompt = tokens.size();
    tokens.insert(tokens.end(), got.tokens[i].begin(), got.tokens[i].end());
    for (size_t t = prompt; t < tokens.size(); ++t) {
      for (const std::vector<int32_t>& word : s.bad_words) {
        if (word.size() > t + 1) continue;
        EXPECT_FALSE(
            std::equal(word.begin(), word.end(), tokens.begin() + static_cast<std::ptrdiff_t>(t + 1 - word.size())))
            << "a bad word at " << t;
      }
      const bool ends = std::find(s.end_tokens.begin(), s.end_tokens.end(), tokens[t]) != s.end_tokens.end();
      EXPECT_FALSE(ends && t < prompt + static_cast<size_t>(s.min_tokens)) << t;
      if (s.allowed_tokens.empty()) continue;
      EXPECT_NE(std::find(s.allowed_tokens.begin(), s.allowed_tokens.end(), tokens[t]), s.allowed_tokens.end());
    }
    const size_t known = s.prompt_logprobs < 0 ? 0 : prompt - 1, sampled = s.logprobs < 0 ? 0 : got.tokens[i].size();
    ASSERT_EQ(got.logprobs[i].size(), known + sampled);
    for (size_t k = 0; k < known + sampled; ++k) {
      const plan::TokenLogprobs& l = got.logprobs[i][k];
      EXPECT_EQ(l.token, tokens[k < known ? k + 1 : prompt + k - known]);
      EXPECT_LE(l.logprob, 0);
      EXPECT_GE(l.rank, 1);
      EXPECT_EQ(l.top_ids.size(), static_cast<size_t>(k < known ? s.prompt_logprobs : s.logprobs));
      for (size_t t = 0; t < l.top_ids.size(); ++t) {
        EXPECT_EQ(l.top_ids[t] == l.token, l.rank == static_cast<int32_t>(t) + 1);
        EXPECT_TRUE(l.top_ids[t] != l.token || l.top_logprobs[t] == l.logprob);
      }
    }
  }
}

}  // namespace shoal::testing
