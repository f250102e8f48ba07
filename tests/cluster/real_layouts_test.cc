// The default model in f32, in every layout over every transport, against one rank: SmolLM2-135M has 9 query and 3 kv
// heads, so that most layouts are uneven.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>

#include "tests/cluster/harness/compare.h"
#include "tests/cluster/harness/driver.h"
#include "tests/cluster/layouts.h"

namespace shoal::testing {
namespace {

constexpr int kChunk = 24;

// "Once upon a time, in a village at the edge of the forest, there lived a girl who wrote letters to the sea..." in the
// model's own ids, and some Korean.
const std::vector<int32_t> kEnglish = {6403, 1980, 253,  655, 28,  281,  253, 6560, 418,   260, 3374,
                                       282,  253,  6740, 28,  665, 4161, 253, 9191, 16201, 617};
const std::vector<int32_t> kKorean = {23297, 183, 246, 137, 182, 111, 246, 25947,
                                      116,   122, 183, 228, 114, 184, 228, 133};

const TestModel& Model() {
  static const TestModel model = OpenDefaultModel().value();
  return model;
}

RankSetOptions Options(comm::TestTransport transport) {
  return {.transport = transport, .blocks = 16, .max_tokens = kChunk, .max_samples = kChunk, .max_model_len = 128};
}

std::vector<TestRequest> Requests() { return {{kEnglish, 12, {}}, {kKorean, 12, {}}}; }

// What one rank says, made once.
struct Reference {
  std::unique_ptr<RankSet> ranks;
  std::vector<float> english, korean;
  DriverResult texts;
};
const Reference& OneRank() {
  static const Reference* reference = [] {
    auto* r = new Reference;
    const auto shards = LoadShards(Model(), 1, 1, "cpu", true).value();
    RankSetOptions options = Options(comm::TestTransport::kLocal);
    options.threads = 2;
    r->texts = RunAlone(*RankSet::Make(shards, options).value(), Requests(), {.chunk = 16}).value();
    r->ranks = RankSet::Make(shards, options).value();
    r->english = TeacherForced(*r->ranks, kEnglish, {kChunk}).value();
    r->korean = TeacherForced(*r->ranks, kKorean, {kChunk}).value();
    return r;
  }();
  return *reference;
}

class RealLayoutsTest : public ::testing::TestWithParam<Layout> {
 protected:
  // Those that the layout is tried over.
  static std::vector<comm::TestTransport> Transports() {
    std::vector<comm::TestTransport> found;
    for (const auto& [layout, transport] : LayoutsAndTransports()) {
      if (LayoutName(layout) == LayoutName(GetParam())) found.push_back(transport);
    }
    return found;
  }
};

TEST_P(RealLayoutsTest, LogitsAndGreedyTextAreThoseOfOneRank) {
  const auto shards = LoadShards(Model(), GetParam().tp, GetParam().pp, "cpu", true);
  ASSERT_TRUE(shards.ok()) << shards.status();
  for (const comm::TestTransport transport : Transports()) {
    SCOPED_TRACE(comm::TransportName(transport));
    auto ranks = RankSet::Make(*shards, Options(transport)).value();
    const auto english = TeacherForced(*ranks, kEnglish, {9, 5});
    ASSERT_TRUE(english.ok()) << english.status();
    const auto korean = TeacherForced(*ranks, kKorean, {16});
    ASSERT_TRUE(korean.ok()) << korean.status();
    const float worst =
        std::max(LargestDifference(OneRank().english, *english), LargestDifference(OneRank().korean, *korean));
    std::printf("figure: f32 in layout %s over %s: largest difference of a logit %.2e\n",
                LayoutName(GetParam()).c_str(), comm::TransportName(transport).c_str(), worst);
    EXPECT_LT(worst, kLogitTolerance);

    const auto texts = RunAlone(*ranks, Requests(), {.chunk = 7, .cohorts = std::min(GetParam().pp, 2)});
    ASSERT_TRUE(texts.ok()) << texts.status();
    for (size_t i = 0; i < Requests().size(); ++i) {
      ASSERT_EQ(texts->tokens[i].size(), 12u);
      const auto difference = FirstRealDifference(*OneRank().ranks, Requests()[i].prompt, OneRank().texts.tokens[i],
                                                  texts->tokens[i], kLogitTolerance);
      ASSERT_TRUE(difference.ok()) << difference.status();
      EXPECT_EQ(*difference, -1) << "text " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, RealLayoutsTest, ::testing::ValuesIn(kLayouts),
                         [](const auto& info) { return "L" + LayoutName(info.param); });

}  // namespace
}  // namespace shoal::testing
