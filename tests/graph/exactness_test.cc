// Same numerics, same bits: a token's logits depend on its sequence alone, not on the chunking, the rest of the batch,
// the blocks it lies in, or the number of threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "common/base/rng.h"
#include "tests/cluster/harness/rank_set.h"

namespace shoal::testing {
namespace {

struct Case {
  std::string name;
  std::string table;
  bool real = false;  // the default model, else a small one
  DType matrices = DType::kF32;
  bool compute_f32 = false;
  DType kv = DType::kF16;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const ops::OpTable* table : ops::RunnableOpTables()) {
    if (table->name == "null") continue;
    for (int i = 0; i < kDTypes; ++i) {
      const auto t = static_cast<DType>(i);
      cases.push_back({std::string(table->name) + "_" + std::string(Info(t).name), std::string(table->name), false, t});
    }
  }
  cases.push_back({.name = "default_model_fast", .table = "cpu", .real = true});
  cases.push_back({.name = "default_model_f32", .table = "cpu", .real = true, .compute_f32 = true, .kv = DType::kF32});
  for (Case& c : cases) std::replace(c.name.begin(), c.name.end(), '-', '_');
  return cases;
}

constexpr int kTokens = 45;

std::vector<int32_t> Ids(int sequence, int vocab, int count = kTokens) {
  std::vector<int32_t> ids(count);
  for (int i = 0; i < count; ++i) ids[i] = static_cast<int32_t>(RandomBits(11, sequence, i) % vocab);
  return ids;
}

class ExactnessTest : public ::testing::TestWithParam<Case> {
 protected:
  static std::shared_ptr<const Shards> Load() {
    const Case& c = GetParam();
    const TinyModel tiny = {.layers = 2,
                            .hidden = 96,
                            .heads = 4,
                            .kv_heads = 2,
                            .head_dim = 32,
                            .ffn = 160,
                            .matrices = c.matrices,
                            .embedding = c.matrices};
    const auto model = c.real ? OpenDefaultModel() : OpenTinyModel(tiny);
    EXPECT_TRUE(model.ok()) << model.status();
    return LoadShards(*model, 1, 1, c.table, c.compute_f32).value();
  }
  void SetUp() override {
    shards_ = Load();
    vocab_ = shards_->model.config.vocab;
    auto ranks = Make(1);
    at_once_ = TeacherForced(*ranks, Ids(0, vocab_), {kTokens}).value();
  }
  std::unique_ptr<RankSet> Make(int threads) {
    return RankSet::Make(shards_, {.kv = GetParam().kv, .threads = threads, .max_tokens = 128, .max_samples = 128})
        .value();
  }
  bool SameAsAtOnce(const float* logits) const {
    return std::memcmp(logits, at_once_.data(), at_once_.size() * sizeof(float)) == 0;
  }

  std::shared_ptr<const Shards> shards_;
  int vocab_ = 0;
  std::vector<float> at_once_;  // [kTokens, vocab] of sequence 0, alone in one chunk
};

TEST_P(ExactnessTest, AnyChunkingGivesTheSameBits) {
  for (const std::vector<int>& chunks : {std::vector<int>{1}, {7}, {17, 1, 16, 3}, {44, 1}}) {
    auto ranks = Make(1);
    const auto logits = TeacherForced(*ranks, Ids(0, vocab_), chunks);
    ASSERT_TRUE(logits.ok()) << logits.status();
    ASSERT_EQ(logits->size(), at_once_.size());
    EXPECT_TRUE(SameAsAtOnce(logits->data())) << "chunks of " << chunks[0];
  }
}

TEST_P(ExactnessTest, ASequenceInABatchGivesTheSameBits) {
  auto ranks = Make(1);
  // In the middle of others, some of which are already further on.
  ASSERT_TRUE(ranks->Step({{3, 0, Ids(3, vocab_, 20)}}, 4).ok());
  const auto logits = ranks->Step(
      {{1, 0, Ids(1, vocab_, 5)}, {3, 20, Ids(4, vocab_, 1)}, {2, 0, Ids(0, vocab_)}, {0, 0, Ids(5, vocab_, 30)}}, 4);
  ASSERT_TRUE(logits.ok()) << logits.status();
  EXPECT_TRUE(SameAsAtOnce(logits->data() + 6 * vocab_));
}

TEST_P(ExactnessTest, AnyNumberOfThreadsGivesTheSameBits) {
  for (const int threads : {2, 3}) {
    auto ranks = Make(threads);
    const auto logits = TeacherForced(*ranks, Ids(0, vocab_), {kTokens});
    ASSERT_TRUE(logits.ok()) << logits.status();
    EXPECT_TRUE(SameAsAtOnce(logits->data())) << threads << " threads";
  }
}

TEST_P(ExactnessTest, AnotherTokenGivesOtherBits) {
  auto ranks = Make(1);
  std::vector<int32_t> ids = Ids(0, vocab_);
  ids[0] = (ids[0] + 1) % vocab_;
  const auto logits = TeacherForced(*ranks, ids, {kTokens});
  ASSERT_TRUE(logits.ok()) << logits.status();
  const size_t last = static_cast<size_t>(kTokens - 1) * vocab_;
  EXPECT_NE(std::memcmp(logits->data() + last, at_once_.data() + last, vocab_ * sizeof(float)), 0);
}

// Batches of more rows than one op call takes.
TEST(LongBatches, GiveTheSameBitsAsShortOnes) {
  for (const DType type : {DType::kF32, DType::kQ4_0}) {
    const TinyModel tiny = {.layers = 2, .hidden = 96, .ffn = 160, .matrices = type};
    const auto shards = LoadShards(OpenTinyModel(tiny).value(), 2, 1, "cpu", false).value();
    const RankSetOptions options = {.blocks = 80, .max_tokens = 1200, .max_samples = 1200, .max_model_len = 80 * 16};
    const std::vector<int32_t> ids = Ids(0, kTinyVocab, 1100);
    const auto at_once = TeacherForced(*RankSet::Make(shards, options).value(), ids, {1100});
    ASSERT_TRUE(at_once.ok()) << at_once.status();
    const auto in_chunks = TeacherForced(*RankSet::Make(shards, options).value(), ids, {300});
    ASSERT_TRUE(in_chunks.ok()) << in_chunks.status();
    ASSERT_EQ(at_once->size(), in_chunks->size());
    EXPECT_EQ(std::memcmp(at_once->data(), in_chunks->data(), at_once->size() * sizeof(float)), 0);
  }
}

// Behind a long context (of zeros here) attention takes few rows at a time.
TEST(LongBatches, GiveTheSameBitsBehindALongContext) {
  constexpr int kBegin = 33000;
  const auto shards = LoadShards(OpenTinyModel({}).value(), 1, 1, "cpu", false).value();
  std::vector<std::vector<float>> runs;
  for (const int part : {20, 6, 1}) {
    auto ranks = RankSet::Make(shards, {.blocks = 2100, .max_model_len = 2100 * 16}).value();
    for (const ops::KvLayer& layer : ranks->rank(0).kv) {
      const size_t bytes = size_t{2100} * 16 * layer.kv_heads * layer.head_dim * sizeof(float);
      std::memset(layer.k, 0, bytes);
      std::memset(layer.v, 0, bytes);
    }
    const std::vector<int32_t> ids = Ids(0, kTinyVocab, 20);
    std::vector<float>& all = runs.emplace_back();
    for (int begin = 0; begin < 20; begin += part) {
      const int end = std::min(begin + part, 20);
      const auto logits = ranks->Step({{0, kBegin + begin, {ids.begin() + begin, ids.begin() + end}}});
      ASSERT_TRUE(logits.ok()) << logits.status();
      all.insert(all.end(), logits->begin(), logits->end());
    }
    ASSERT_EQ(all.size(), runs[0].size());
    EXPECT_EQ(std::memcmp(all.data(), runs[0].data(), all.size() * sizeof(float)), 0) << part;
  }
  EXPECT_NE(runs[0][0], runs[0][shards->model.config.vocab]) << "rows differ";
}

// Null ops report progress once for each call: what grows with the rows is the number of calls.
TEST(LongBatches, ShowProgressOnTheWay) {
  const auto shards = LoadShards(OpenTinyModel({}).value(), 1, 1, "null", false).value();
  std::vector<uint64_t> progress;
  for (const int rows : {300, 512, 1100}) {
    auto ranks =
        RankSet::Make(shards, {.blocks = 80, .max_tokens = 1200, .max_samples = 1200, .max_model_len = 1280}).value();
    ranks->rank(0).device->stream().progress = &ranks->rank(0).page->progress;
    ASSERT_TRUE(TeacherForced(*ranks, Ids(0, kTinyVocab, rows), {rows}).ok());
    progress.push_back(ranks->rank(0).page->progress);
  }
  EXPECT_EQ(progress[0], progress[1]);
  EXPECT_GT(progress[2], 2 * progress[1] * 3 / 4) << "three calls instead of one";
}

INSTANTIATE_TEST_SUITE_P(All, ExactnessTest, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace shoal::testing
