// What an engine does besides computing: refuses what does not fit, ends when told to, counts, and harms no neighbour.
#include "worker/rank/engine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>

#include "common/base/rng.h"
#include "tests/cluster/harness/driver.h"
#include "worker/rank/operation.h"

namespace shoal::testing {
namespace {

const TinyModel kTiny = {.layers = 2, .heads = 4, .kv_heads = 2, .vocab = 288, .tied = false};

std::vector<int32_t> Ids(int count, int seed) {
  std::vector<int32_t> ids(count);
  for (int i = 0; i < count; ++i) ids[i] = 3 + static_cast<int32_t>(RandomBits(seed, 1, i) % 280);
  return ids;
}

std::unique_ptr<RankSet> Make(int tp, int pp, const std::string& table = "cpu", const TestModel* model = nullptr) {
  static const TestModel tiny = OpenTinyModel(kTiny).value();
  const auto shards = LoadShards(model == nullptr ? tiny : *model, tp, pp, table, false).value();
  return RankSet::Make(shards, {.transport = comm::TestTransport::kShm}).value();
}

// A plan that starts sequence `id` with these tokens in these blocks and samples once; `mirror` stamps its digest.
plan::StepPlan StartPlan(plan::PlanMirror& mirror, uint64_t step, plan::SequenceId id, std::vector<int32_t> tokens,
                         std::vector<int32_t> blocks, int kv_tokens = 0) {
  plan::StepPlan plan;
  plan.stamp = {.epoch = 1, .incarnation = 1, .step = step};
  const int count = static_cast<int>(tokens.size());
  plan.rows.push_back(
      {.id = id, .position = kv_tokens, .count = count - kv_tokens, .output = plan::RowOutput::kSample});
  plan::SequenceStart& start = plan.starts.emplace_back();
  start.id = id;
  start.prompt_tokens = count;
  start.tokens = std::move(tokens);
  start.blocks = std::move(blocks);
  start.kv_tokens = kv_tokens;
  EXPECT_TRUE(mirror.Apply(plan, false).ok());
  plan.mirror_digest = mirror.digest();
  return plan;
}

TEST(EngineTest, CountsStepsTimesAndPlansAhead) {
  auto ranks = Make(1, 1);
  plan::PlanMirror mirror(ranks->limits());
  std::vector<plan::StepPlan> plans = {StartPlan(mirror, 1, 7, Ids(5, 1), {4})};
  for (int i = 0; i < 4; ++i) {
    plan::StepPlan& plan = plans.emplace_back();
    plan.stamp = {.epoch = 1, .incarnation = 1, .step = 2ull + i};
    plan.rows.push_back({.id = 7,
                         .source = plan::TokenSource::kLastSample,
                         .position = 5 + i,
                         .count = 1,
                         .output = plan::RowOutput::kSample});
    ASSERT_TRUE(mirror.Apply(plan, false).ok());
    plan.mirror_digest = mirror.digest();
  }
  Engines engines(*ranks);
  for (const plan::StepPlan& plan : plans) engines.Submit(plan);
  for (uint64_t step = 1; step <= 5; ++step) {
    const auto result = engines.NextResult();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->stamp, plans[step - 1].stamp);
    EXPECT_EQ(result->rank, 0);
    ASSERT_EQ(result->rows.size(), 1u);
    EXPECT_EQ(result->rows[0].id, 7u);
    EXPECT_EQ(result->rows[0].tokens.size(), 1u);
    EXPECT_LE(result->times.received, result->times.started);
    EXPECT_LE(result->times.started, result->times.ended);
    EXPECT_GE(result->times.waited, 0);
    EXPECT_GT(result->times.sampling, 0);
    EXPECT_GT(result->times.Own(), 0);
  }
  for (const absl::Status& s : engines.Stop()) EXPECT_TRUE(s.ok()) << s;
  const rank::ControlPage& page = *ranks->rank(0).page;
  EXPECT_EQ(page.step, 5u);
  EXPECT_EQ(page.decode_steps, 4u);
  EXPECT_GE(page.decode_steps_planned, 0u);
  EXPECT_LE(page.decode_steps_planned, 3u) << "after the last one there was nothing";
  EXPECT_GT(page.progress, 5u * 2 * 10) << "each operation of each layer is progress";
  EXPECT_EQ(rank::OperationName(page.operation), "waiting for a plan");
}

TEST(EngineTest, AnAheadPlanIsCounted) {
  auto ranks = Make(1, 1);
  const auto result = RunAlone(*ranks, {{Ids(4, 2), 50, {}}}, {.ahead = 50});
  ASSERT_TRUE(result.ok()) << result.status();
  const rank::ControlPage& page = *ranks->rank(0).page;
  EXPECT_EQ(page.decode_steps, 49u);
  EXPECT_GT(page.decode_steps_planned, 0u);
}

TEST(EngineTest, ADivergedMirrorEndsTheEngineAfterAnAnswerThatSaysSo) {
  auto ranks = Make(2, 1);
  plan::PlanMirror mirror(ranks->limits());
  plan::StepPlan plan = StartPlan(mirror, 1, 7, Ids(5, 1), {4});
  plan.mirror_digest ^= 1;
  Engines engines(*ranks);
  engines.Submit(plan);
  const auto result = engines.NextResult();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_NE(result->error.find("mirrors differ"), std::string::npos) << result->error;
  EXPECT_TRUE(result->rows.empty());
  for (const absl::Status& s : engines.Stop()) EXPECT_EQ(s.code(), absl::StatusCode::kInvalidArgument) << s;
  EXPECT_EQ(engines.errors().size(), 2u);
  EXPECT_EQ(ranks->rank(0).page->step, 0u);
}

TEST(EngineTest, AnAnswerThatNobodyTakesEndsTheEngine) {
  auto ranks = Make(1, 1);
  plan::PlanMirror mirror(ranks->limits());
  Engines engines(*ranks);
  engines.RefuseAnswers(absl::InvalidArgumentError("too large"));
  engines.Submit(StartPlan(mirror, 1, 7, Ids(5, 1), {4}));
  ASSERT_TRUE(engines.NextResult().ok());  // the harness has seen it all the same
  EXPECT_EQ(absl::StatusCode::kUnavailable, engines.NextResult().status().code());
  for (const absl::Status& s : engines.Stop()) EXPECT_EQ(s, absl::InvalidArgumentError("too large"));
}

// Sizes come from the operator's flags.
TEST(EngineTest, ADecoderWithoutMemoryIsRefused) {
  auto ranks = Make(1, 1);
  const Shards& shards = ranks->shards();
  ops::OpTable table = *shards.table;
  table.attention_workspace = [](int, int, int, int, int) { return int64_t{1} << 56; };  // beyond any address space
  RankSet::Rank& rank = ranks->rank(0);
  const auto device = device::MakeHostDevice(&table, 1);
  graph::OperationLog operations(&rank.page->operation, &device->stream());
  const auto decoder =
      graph::Decoder::Create(shards.model.config, shards.plan.ranks[0], {64, 64, 512}, device.get(), &shards.weights[0],
                             rank.kv, ranks->group().rank(0).tensor.get(), &operations);
  EXPECT_EQ(absl::StatusCode::kResourceExhausted, decoder.status().code()) << decoder.status();
  EXPECT_NE(decoder.status().message().find("--max-num-batched-tokens"), std::string::npos) << decoder.status();
}

TEST(EngineTest, AnAbortEndsAWaitWithoutAnAnswer) {
  auto ranks = Make(1, 2);
  plan::PlanMirror mirror(ranks->limits());
  Engines engines(*ranks);
  engines.SubmitTo(1, StartPlan(mirror, 1, 7, Ids(5, 1), {4}));  // its previous stage never gets the plan
  const auto receives = static_cast<uint32_t>(rank::Operation::kReceive);
  while (ranks->rank(1).page->operation.load() != receives) std::this_thread::yield();
  ranks->group().abort(1) = 1;
  EXPECT_TRUE(absl::IsUnavailable(engines.NextResult().status()));
  const auto ended = engines.Stop();
  EXPECT_EQ(ended[1].code(), absl::StatusCode::kAborted) << ended[1];
  EXPECT_TRUE(engines.errors().empty());
}

TEST(EngineTest, StopsAfterThePlanItIsExecuting) {
  auto ranks = Make(1, 1);
  plan::PlanMirror mirror(ranks->limits());
  Engines engines(*ranks);
  ranks->rank(0).page->stop = 1;
  engines.Submit(StartPlan(mirror, 1, 7, Ids(5, 1), {4}));
  engines.Submit(StartPlan(mirror, 2, 8, Ids(5, 2), {5}));
  for (const absl::Status& s : engines.Stop()) EXPECT_TRUE(s.ok()) << s;
  EXPECT_LE(ranks->rank(0).page->step, 1u) << "the second plan was never begun";
}

// Sequences that sample once and are never continued: nobody needs their messages, and the mailbox has 8 slots.
TEST(EngineTest, UnneededSamplesDoNotFillTheMailbox) {
  for (const int pp : {1, 2}) {
    auto ranks = Make(2, pp);
    std::vector<TestRequest> requests;
    for (int i = 0; i < 40; ++i) requests.push_back({Ids(3, i), 1, {}});
    const auto result = RunAlone(*ranks, requests, {.cohorts = 40, .ahead = 1});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->plans, 40);
    for (const auto& tokens : result->tokens) EXPECT_EQ(tokens.size(), 1u);
  }
}

// A second sequence takes over a full block of the first and a copy of its half-filled one: the same text as alone.
TEST(EngineTest, SharedAndCopiedBlocksReadLikeOwnOnes) {
  const std::vector<int32_t> common = Ids(20, 5);
  std::vector<int32_t> longer = common;
  longer.push_back(77);
  for (const char* table : {"null", "cpu"}) {
    const auto alone = RunAlone(*Make(2, 2, table), {{longer, 1, {}}}, {});
    ASSERT_TRUE(alone.ok()) << alone.status();
    auto ranks = Make(2, 2, table);
    plan::PlanMirror mirror(ranks->limits());
    Engines engines(*ranks);
    engines.Submit(StartPlan(mirror, 1, 1, common, {9, 3}));
    ASSERT_TRUE(engines.NextResult().ok());
    plan::StepPlan plan;
    plan.stamp = {.epoch = 1, .incarnation = 1, .step = 2};
    plan::SequenceStart& start = plan.starts.emplace_back();
    start.id = 2;
    start.tokens = longer;
    start.prompt_tokens = 21;
    start.blocks = {9, 30};
    start.kv_tokens = 20;
    plan.copies.push_back({3, 30});
    plan.rows.push_back({.id = 2, .position = 20, .count = 1, .output = plan::RowOutput::kSample});
    ASSERT_TRUE(mirror.Apply(plan, false).ok());
    plan.mirror_digest = mirror.digest();
    engines.Submit(plan);
    const auto result = engines.NextResult();
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(result->rows.size(), 1u) << result->error;
    EXPECT_EQ(result->rows[0].tokens, alone->tokens[0]) << table;
    for (const absl::Status& s : engines.Stop()) EXPECT_TRUE(s.ok()) << s;
  }
}

// Weights in which one token's embedding has `value` in one place.
class PoisonedCheckpoint final : public model::Checkpoint {
 public:
  PoisonedCheckpoint(std::shared_ptr<const Checkpoint> inner, int32_t token, int64_t hidden, float value)
      : inner_(std::move(inner)), value_(value), at_(token * hidden * static_cast<int64_t>(sizeof(float))) {}
  std::span<const model::TensorEntry> tensors() const override { return inner_->tensors(); }
  absl::Status Read(const model::TensorEntry& tensor, int64_t offset, std::span<std::byte> dst) const override {
    const absl::Status status = inner_->Read(tensor, offset, dst);
    const auto size = static_cast<int64_t>(dst.size());
    if (tensor.name == "embedding" && at_ >= offset && at_ + 4 <= offset + size) {
      std::memcpy(dst.data() + (at_ - offset), &value_, sizeof(value_));
    }
    return status;
  }
  int64_t bytes_read() const override { return inner_->bytes_read(); }
  int64_t file_bytes() const override { return inner_->file_bytes(); }
  uint64_t header_digest() const override { return inner_->header_digest(); }

 private:
  const std::shared_ptr<const Checkpoint> inner_;
  const float value_;
  const int64_t at_;
};

TEST(EngineTest, ARowThatIsNotFiniteHarmsNoOther) {
  constexpr int32_t kPoison = 285;
  constexpr float kInf = std::numeric_limits<float>::infinity();
  std::vector<int32_t> bad = Ids(6, 1);
  bad[2] = kPoison;
  for (const auto& [tp, pp, value] : {std::tuple(1, 1, std::nanf("")), {1, 1, kInf}, {2, 2, kInf}, {2, 2, -kInf}}) {
    SCOPED_TRACE(value);
    TestModel model = OpenTinyModel(kTiny).value();
    model.checkpoint = std::make_shared<PoisonedCheckpoint>(model.checkpoint, kPoison, kTiny.hidden, value);
    const auto alone = RunAlone(*Make(tp, pp, "cpu", &model), {{Ids(9, 2), 8, {}}}, {});
    ASSERT_TRUE(alone.ok()) << alone.status();
    const auto both = RunAlone(*Make(tp, pp, "cpu", &model), {{bad, 8, {}}, {Ids(9, 2), 8, {}}}, {});
    ASSERT_TRUE(both.ok()) << both.status();
    EXPECT_EQ(both->errors[0], plan::RowError::kNotFinite);
    EXPECT_TRUE(both->tokens[0].empty());
    EXPECT_EQ(both->errors[1], plan::RowError::kNone);
    EXPECT_EQ(both->tokens[1], alone->tokens[0]);
  }
}

TEST(EngineTest, SeededSamplingIsTheSameAloneAndInABatch) {
  plan::SamplingParams sampling;
  sampling.temperature = 1.5f;
  sampling.top_k = 50;
  sampling.top_p = 0.95f;
  sampling.seed = 1234;
  TestRequest request = {Ids(9, 2), 16, sampling};
  const auto alone = RunAlone(*Make(1, 1), {request}, {});
  ASSERT_TRUE(alone.ok()) << alone.status();
  plan::SamplingParams other = sampling;
  other.seed = 99;
  const auto batch =
      RunAlone(*Make(1, 1), {{Ids(20, 3), 10, other}, request, {request.prompt, 16, other}}, {.chunk = 4});
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_EQ(batch->tokens[1], alone->tokens[0]);
  EXPECT_NE(batch->tokens[2], alone->tokens[0]) << "another seed";
  request.sampling = {};
  const auto greedy = RunAlone(*Make(1, 1), {request}, {});
  ASSERT_TRUE(greedy.ok());
  EXPECT_NE(greedy->tokens[0], alone->tokens[0]) << "sampling does something";
}

}  // namespace
}  // namespace shoal::testing
