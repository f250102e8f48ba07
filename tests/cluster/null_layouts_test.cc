// The null backend's text depends on every id that it reads back through the block tables: the same in every layout, or
// something was stored, copied, sent or read wrongly.
#include <gtest/gtest.h>

#include <set>

#include "common/base/rng.h"
#include "tests/cluster/harness/driver.h"
#include "tests/cluster/layouts.h"

namespace shoal::testing {
namespace {

const TinyModel kTiny = {
    .layers = 3, .hidden = 64, .heads = 6, .kv_heads = 3, .head_dim = 32, .ffn = 160, .vocab = 352};

std::vector<TestRequest> Requests() {
  std::vector<TestRequest> requests;
  for (int r = 0; r < 6; ++r) {
    TestRequest& request = requests.emplace_back();
    for (int i = 0; i < 5 + 13 * r; ++i) request.prompt.push_back(static_cast<int32_t>(RandomBits(3, r, i) % 352));
    request.new_tokens = 30 - r;
  }
  return requests;
}

std::unique_ptr<RankSet> Make(Layout layout, const RankSetOptions& options) {
  static const TestModel model = OpenTinyModel(kTiny).value();
  return RankSet::Make(LoadShards(model, layout.tp, layout.pp, "null", false).value(), options).value();
}

const DriverResult& OneRank() {
  static const DriverResult result = RunAlone(*Make({1, 1}, {}), Requests(), {}).value();
  return result;
}

TEST(NullTextTest, DependsOnEveryTokenOfThePrompt) {
  std::set<std::vector<int32_t>> texts;
  const TestRequest original = Requests()[2];
  for (size_t change = 0; change <= original.prompt.size(); ++change) {
    TestRequest request = original;
    if (change > 0) request.prompt[change - 1] ^= 1;
    const auto result = RunAlone(*Make({1, 1}, {}), {request}, {});
    ASSERT_TRUE(result.ok()) << result.status();
    texts.insert(result->tokens[0]);
  }
  EXPECT_EQ(texts.size(), original.prompt.size() + 1);
}

class NullLayoutsTest : public ::testing::TestWithParam<std::tuple<Layout, comm::TestTransport>> {};

TEST_P(NullLayoutsTest, TextIsThatOfOneRank) {
  const auto [layout, transport] = GetParam();
  for (const int chunk : {4, 32}) {
    auto ranks = Make(layout, {.transport = transport, .kv = DType::kF16});
    const auto got = RunAlone(*ranks, Requests(), {.chunk = chunk, .cohorts = layout.pp});
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->tokens, OneRank().tokens);
  }
}

TEST_P(NullLayoutsTest, TextOfARequestIsThatOfItAlone) {
  const auto [layout, transport] = GetParam();
  auto ranks = Make(layout, {.transport = transport});
  const auto got = RunAlone(*ranks, {Requests()[3]}, {.chunk = 9, .ahead = 1});
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->tokens[0], OneRank().tokens[3]);
}

INSTANTIATE_TEST_SUITE_P(All, NullLayoutsTest, ::testing::ValuesIn(LayoutsAndTransports()), [](const auto& info) {
  return "L" + LayoutName(std::get<0>(info.param)) + comm::TransportName(std::get<1>(info.param));
});

}  // namespace
}  // namespace shoal::testing
