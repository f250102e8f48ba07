// A small model with uneven heads, in every layout over every transport, against one rank.
#include <gtest/gtest.h>

#include <algorithm>

#include "common/base/rng.h"
#include "tests/cluster/harness/compare.h"
#include "tests/cluster/harness/driver.h"
#include "tests/cluster/layouts.h"

namespace shoal::testing {
namespace {

using comm::TestTransport;

// 6 query and 3 kv heads, 5 blocks of ffn and 11 of vocabulary: no layout but 1x1 divides all of them.
const TinyModel kTiny = {
    .layers = 3, .hidden = 64, .heads = 6, .kv_heads = 3, .head_dim = 32, .ffn = 160, .vocab = 352};

const TestModel& Model() {
  static const TestModel model = OpenTinyModel(kTiny).value();
  return model;
}

std::vector<int32_t> Ids(int count, int seed) {
  std::vector<int32_t> ids(count);
  for (int i = 0; i < count; ++i) ids[i] = static_cast<int32_t>(RandomBits(seed, 1, i) % kTiny.vocab);
  return ids;
}

std::vector<TestRequest> Requests() {
  std::vector<TestRequest> requests;
  for (int i = 0; i < 5; ++i) requests.push_back({.prompt = Ids(3 + 17 * i, i), .new_tokens = 12, .sampling = {}});
  return requests;
}

std::shared_ptr<const Shards> Load(Layout layout, const std::string& table = "cpu") {
  return LoadShards(Model(), layout.tp, layout.pp, table, true).value();
}

class TinyLayoutsTest : public ::testing::TestWithParam<std::tuple<Layout, TestTransport>> {
 protected:
  Layout layout() const { return std::get<0>(GetParam()); }
  RankSetOptions options() const { return {.transport = std::get<1>(GetParam())}; }
};

TEST_P(TinyLayoutsTest, LogitsAreThoseOfOneRank) {
  static const std::vector<float> expected = [] {
    auto one = RankSet::Make(Load({1, 1}), {}).value();
    return TeacherForced(*one, Ids(50, 9), {50}).value();
  }();
  auto ranks = RankSet::Make(Load(layout()), options());
  ASSERT_TRUE(ranks.ok()) << ranks.status();
  const auto logits = TeacherForced(**ranks, Ids(50, 9), {7, 20});
  ASSERT_TRUE(logits.ok()) << logits.status();
  EXPECT_LT(LargestDifference(expected, *logits), kLogitTolerance);
  const float* last = logits->data() + logits->size() - kTiny.vocab;
  EXPECT_GT(*std::max_element(last, last + kTiny.vocab), 0.1f) << "logits of a model, not zeros";
}

TEST_P(TinyLayoutsTest, GreedyTextIsThatOfOneRank) {
  static const DriverResult expected = [] {
    auto one = RankSet::Make(Load({1, 1}), {}).value();
    return RunAlone(*one, Requests(), {}).value();
  }();
  auto reference = RankSet::Make(Load({1, 1}), {}).value();
  auto ranks = RankSet::Make(Load(layout()), options()).value();
  const auto got = RunAlone(*ranks, Requests(), {.chunk = 10, .cohorts = layout().pp});
  ASSERT_TRUE(got.ok()) << got.status();
  for (size_t i = 0; i < expected.tokens.size(); ++i) {
    ASSERT_EQ(got->tokens[i].size(), 12u);
    const auto difference =
        FirstRealDifference(*reference, Requests()[i].prompt, expected.tokens[i], got->tokens[i], kLogitTolerance);
    ASSERT_TRUE(difference.ok()) << difference.status();
    EXPECT_EQ(*difference, -1) << "request " << i;
  }
}

// The bytes are what the layout must put on the wire, on the transport that was asked for, and on no other. Each
// channel end counts in its own transport's row, so one that is of another transport shows in the other row.
TEST_P(TinyLayoutsTest, BytesGoOverTheNamedTransport) {
  auto ranks = RankSet::Make(Load(layout()), options()).value();
  ASSERT_TRUE(RunAlone(*ranks, {{.prompt = Ids(4, 1), .new_tokens = 3, .sampling = {}}}, {}).ok());
  const auto [tp, pp] = layout();
  constexpr int64_t kRow = 64 * sizeof(float);
  constexpr int64_t kTokens = 4 + 1 + 1;
  const auto named = static_cast<size_t>(comm::Carrier(options().transport));
  for (int r = 0; r < tp * pp; ++r) {
    SCOPED_TRACE(r);
    const rank::ControlPage& page = *ranks->rank(r).page;
    for (size_t t = 0; t < std::size(page.sent); ++t) {
      const int64_t bytes = page.sent[t].tensor + page.sent[t].activation + page.sent[t].token;
      EXPECT_EQ(bytes > 0, t == named) << bytes << " bytes over " << comm::kTransportNames[t];
    }
    const auto& sent = page.sent[named];
    const plan::RankShard& shard = ranks->shards().plan.ranks[r];
    // One for each other rank where memory is not shared.
    const int copies = options().transport == TestTransport::kGloo ? tp - 1 : 1;
    int64_t tensor = tp == 1 ? 0 : (2 * shard.layers.size() + shard.has_embedding) * kTokens * kRow * copies;
    if (tp > 1 && shard.has_head && shard.tp_index > 0) tensor += 3 * shard.vocab.size() * sizeof(float);
    EXPECT_EQ(sent.tensor, tensor);
    EXPECT_EQ(sent.activation, shard.stage + 1 < pp ? kTokens * kRow : 0);
    EXPECT_EQ(sent.token > 0, r == ranks->shards().plan.sampling_rank());
  }
}

INSTANTIATE_TEST_SUITE_P(All, TinyLayoutsTest, ::testing::ValuesIn(LayoutsAndTransports()), [](const auto& info) {
  return "L" + LayoutName(std::get<0>(info.param)) + comm::TransportName(std::get<1>(info.param));
});

}  // namespace
}  // namespace shoal::testing
