// Penalties, masks, biases and log-probabilities from plan to result, on ranks that are CPUs.
#include "tests/rank/sampling_cases.h"

namespace shoal::testing {
namespace {

const TinyModel kTiny = {.layers = 2, .heads = 4, .kv_heads = 2, .vocab = 288, .tied = false};

struct Layout {
  const char* table;
  int tp, pp;
};
class EngineSampling : public ::testing::TestWithParam<Layout> {
 protected:
  absl::StatusOr<DriverResult> Run(const std::vector<TestRequest>& requests, const DriverOptions& options) {
    static const TestModel tiny = OpenTinyModel(kTiny).value();
    const auto [table, tp, pp] = GetParam();
    const auto shards = LoadShards(tiny, tp, pp, table, false).value();
    const auto ranks = RankSet::Make(shards, {.transport = comm::TestTransport::kShm, .max_samples = 9}).value();
    return RunAlone(*ranks, requests, options);
  }
  const RunCases run_ = [this](const auto& requests, const auto& options) { return Run(requests, options); };
};
INSTANTIATE_TEST_SUITE_P(Layouts, EngineSampling,
                         ::testing::Values(Layout{"cpu", 1, 1}, Layout{"cpu", 2, 2}, Layout{"null", 1, 1},
                                           Layout{"null", 1, 2}),
                         [](const auto& info) {
                           return std::string(info.param.table) + std::to_string(info.param.tp) +
                                  std::to_string(info.param.pp);
                         });

TEST_P(EngineSampling, IsTheSameAloneAmongOthersAndInAnyChunks) {
  const std::vector<TestRequest> cases = SamplingCases(14);
  const auto together = Run(cases, {.chunk = 7});
  ASSERT_TRUE(together.ok()) << together.status();
  ExpectCasesKept(cases, *together);
  ExpectSameAlone(cases, *together, run_);
  for (const DriverOptions& options :
       {DriverOptions{.chunk = 1}, {.chunk = 4, .cohorts = 3}, {.chunk = 32, .ahead = 1}}) {
    const auto again = Run(cases, options);
    ASSERT_TRUE(again.ok()) << again.status();
    ExpectSameCases(*together, *again);
  }
}

// A rank that was lost, or a sequence that was preempted: from SequenceStart alone.
TEST_P(EngineSampling, IsTheSameBegunAgainAfterEachStep) {
  const std::vector<TestRequest> cases = SamplingCases(11);
  const auto whole = Run(cases, {});
  ASSERT_TRUE(whole.ok()) << whole.status();
  ExpectSameBegunAgain(cases, *whole, run_, 1);
}

TEST_P(EngineSampling, EachParameterDoesSomething) {
  std::vector<TestRequest> cases = SamplingCases(14);
  const auto with = Run(cases, {});
  ASSERT_TRUE(with.ok()) << with.status();
  for (TestRequest& request : cases) {
    plan::SamplingParams plain;
    plain.temperature = request.sampling.temperature;
    plain.top_p = request.sampling.top_p;
    plain.seed = request.sampling.seed;
    request.sampling = plain;
  }
  const auto without = Run(cases, {});
  ASSERT_TRUE(without.ok()) << without.status();
  for (size_t i = 0; i < 4; ++i) EXPECT_NE(with->tokens[i], without->tokens[i]) << i;
  for (size_t i = 4; i < 6; ++i) EXPECT_EQ(with->tokens[i], without->tokens[i]) << i;
}

}  // namespace
}  // namespace shoal::testing
