#include "tools/sim/workers.h"

#include <csignal>
#include <cstdlib>
#include <map>

#include "gtest/gtest.h"

namespace shoal::sim {
namespace {

RunResult Good(uint64_t seed) {
  RunResult r;
  r.seed = seed;
  r.hash = seed * 7;
  r.requests = 3;
  r.answered = 2;
  r.faults[1] = static_cast<int>(seed);
  return r;
}

std::map<uint64_t, RunResult> RunAll(SeedRange range, int jobs, const std::function<RunResult(uint64_t)>& body,
                                     uint64_t twice_every = 0) {
  std::map<uint64_t, RunResult> results;
  EXPECT_TRUE(RunSeeds(range, jobs, twice_every, body, [&](const RunResult& r) {
    EXPECT_FALSE(results.contains(r.seed)) << r.seed;
    results[r.seed] = r;
  }));
  return results;
}

TEST(Workers, EverySeedOnceWithWhatItFound) {
  for (const int jobs : {1, 3, 40}) {
    const auto results = RunAll({5, 30}, jobs, Good);
    ASSERT_EQ(results.size(), 26u);
    for (const auto& [seed, r] : results) {
      EXPECT_EQ(r.hash, seed * 7);
      EXPECT_EQ(r.requests, 3);
      EXPECT_EQ(r.answered, 2);
      EXPECT_EQ(r.faults[1], static_cast<int>(seed));
      EXPECT_TRUE(r.problems.empty());
    }
  }
}

TEST(Workers, ARunThatAbortsCostsNothingButItself) {
  const auto results = RunAll({1, 20}, 2, [](uint64_t seed) {
    if (seed == 7) std::raise(SIGKILL);
    if (seed == 8 || seed == 20) std::_Exit(3);
    RunResult r = Good(seed);
    if (seed == 9) r.problems = {"two\nlines", "and one"};
    return r;
  });
  ASSERT_EQ(results.size(), 20u);
  for (const auto& [seed, r] : results) {
    EXPECT_EQ(r.problems.empty(), seed != 7 && seed != 8 && seed != 9 && seed != 20) << seed;
  }
  EXPECT_EQ(results.at(7).problems[0], "aborted by signal 9");
  EXPECT_EQ(results.at(20).problems[0], "exited with 3");
  EXPECT_EQ(results.at(9).problems, (std::vector<std::string>{"two lines", "and one"}));
  EXPECT_EQ(FailureLine(results.at(9)), "FAILED --seed 9 --trace: 2 problems, first: two lines");
}

TEST(Workers, ARunThatIsNotTheSameTwiceIsFound) {
  const auto results = RunAll(
      {1, 12}, 1,
      [](uint64_t seed) {
        static uint64_t calls = 0;
        RunResult r = Good(seed);
        r.hash = seed == 8 ? ++calls : seed;
        return r;
      },
      4);
  for (const auto& [seed, r] : results) EXPECT_EQ(r.problems.empty(), seed != 8) << seed;
}

}  // namespace
}  // namespace shoal::sim
