#include "worker/rank/step_batch.h"

#include <gtest/gtest.h>

#include "common/base/rng.h"

namespace shoal::rank {
namespace {

template <typename T>
std::vector<T> List(std::span<const T> s) {
  return {s.begin(), s.end()};
}

TEST(StepBatchTest, LaysOutRowsByTheirBlockTables) {
  plan::PlanMirror mirror(
      {.blocks = 64, .block_size = 4, .max_sequences = 8, .max_tokens = 64, .max_model_len = 64, .vocab = 100});
  plan::StepPlan plan;
  plan.stamp.step = 1;
  for (const plan::SequenceId id : {5, 6}) {
    plan::SequenceStart& start = plan.starts.emplace_back();
    start.id = id;
    start.tokens = {1, 2, 3, 4, 5, 6};
    start.prompt_tokens = 6;
    start.sampling.seed = 40 + id;
    start.sampling.temperature = 0.5f;
    start.blocks = id == 5 ? std::vector<int32_t>{10, 3} : std::vector<int32_t>{7, 20};
  }
  plan.rows.push_back({.id = 6, .position = 0, .count = 5});
  plan.rows.push_back({.id = 5, .position = 0, .count = 6, .output = plan::RowOutput::kSample});
  ASSERT_TRUE(mirror.Apply(plan, false).ok());
  Places places(8);
  places.Apply(plan);
  StepBatch batch;
  batch.Build(plan, mirror, places);
  EXPECT_EQ(batch.batch().tokens, 11);
  EXPECT_EQ(List(batch.batch().positions), (std::vector<int32_t>{0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(List(batch.batch().slots), (std::vector<int64_t>{28, 29, 30, 31, 80, 40, 41, 42, 43, 12, 13}));
  EXPECT_EQ(List(batch.batch().sample_rows), (std::vector<int32_t>{10}));
  ASSERT_EQ(batch.batch().sequences.size(), 2u);
  EXPECT_EQ(batch.batch().sequences[1].row_begin, 5);
  EXPECT_EQ(batch.batch().sequences[1].row_count, 6);
  EXPECT_EQ(batch.batch().sequences[1].block_table[1], 3);
  ASSERT_EQ(batch.batch().places.size(), 2u);
  EXPECT_NE(batch.batch().places[0].index, batch.batch().places[1].index);
  const graph::SequencePlace place = batch.batch().places[1];
  ASSERT_EQ(batch.output_rows().size(), 1u);
  EXPECT_EQ(batch.output_rows()[0].id, 5u);
  EXPECT_EQ(batch.output_rows()[0].sample, 0);
  EXPECT_EQ(batch.samples(), 1);
  EXPECT_EQ(batch.outputs()[0].sequence, mirror.Find(5));
  EXPECT_EQ(batch.outputs()[0].position, 6);
  EXPECT_EQ(batch.outputs()[0].place, place.index);
  EXPECT_EQ(batch.outputs()[0].owner, place.owner);
  EXPECT_FLOAT_EQ(batch.batch().sampling[0].temperature, 0.5f);
  // Keyed by the position of the token that is being sampled.
  EXPECT_EQ(batch.batch().sampling[0].uniform, SamplingUniform(45, 0, 6, 0));
  EXPECT_FALSE(batch.decodes());

  plan = {};
  plan.stamp.step = 2;
  plan.rows.push_back({.id = 5,
                       .source = plan::TokenSource::kLastSample,
                       .position = 6,
                       .count = 1,
                       .output = plan::RowOutput::kSample});
  plan.blocks_added.push_back({6, {21}});
  plan.copies.clear();
  ASSERT_TRUE(mirror.Apply(plan, false).ok());
  places.Apply(plan);
  batch.Build(plan, mirror, places);
  EXPECT_EQ(List(batch.batch().slots), (std::vector<int64_t>{14}));
  EXPECT_EQ(batch.batch().sequences[0].position, 6);
  EXPECT_EQ(batch.batch().places[0].index, place.index);
  EXPECT_EQ(batch.batch().places[0].owner, place.owner);
  EXPECT_EQ(batch.batch().sampling[0].uniform, SamplingUniform(45, 0, 7, 0));
  EXPECT_TRUE(batch.decodes());
  EXPECT_TRUE(batch.copies().empty());
}

// What is posted are the first of the tokens: samples come first, whatever the order of rows.
TEST(StepBatchTest, SamplesComeBeforeTokensThatAreKnown) {
  plan::PlanMirror mirror(
      {.blocks = 64, .block_size = 4, .max_sequences = 12, .max_tokens = 64, .max_model_len = 64, .vocab = 100});
  plan::StepPlan plan;
  plan.stamp.step = 1;
  for (const plan::SequenceId id : {5, 6, 7, 8}) {
    plan::SequenceStart& start = plan.starts.emplace_back();
    start.id = id;
    const auto base = static_cast<int32_t>(10 * id);
    start.tokens = {base, base + 1, base + 2, base + 3, base + 4};
    start.prompt_tokens = 5;
    start.sampling.prompt_logprobs = static_cast<int32_t>(id);
    start.sampling.logprobs = id == 7 ? 1 : -1;
    start.blocks = {static_cast<int32_t>(2 * id), static_cast<int32_t>(2 * id + 1)};
  }
  plan.rows = {{.id = 5, .position = 0, .count = 3, .output = plan::RowOutput::kLogprobs},
               {.id = 6, .position = 0, .count = 5, .output = plan::RowOutput::kSample},
               {.id = 8, .position = 0, .count = 4},
               {.id = 7, .position = 0, .count = 5, .output = plan::RowOutput::kBoth}};
  ASSERT_TRUE(mirror.Apply(plan, false).ok());
  Places places(12);
  places.Apply(plan);
  StepBatch batch;
  batch.Build(plan, mirror, places);
  EXPECT_EQ(List(batch.batch().sample_rows), (std::vector<int32_t>{7, 16, 0, 1, 2, 12, 13, 14, 15}));
  EXPECT_EQ(batch.samples(), 2);
  std::vector<int32_t> forced, logprobs, positions;
  for (const ops::SampleRow& row : batch.batch().sampling) {
    forced.push_back(row.forced);
    logprobs.push_back(row.logprobs);
  }
  for (const sampling::Output& output : batch.outputs()) positions.push_back(output.position);
  EXPECT_EQ(forced, (std::vector<int32_t>{-1, -1, 51, 52, 53, 71, 72, 73, 74}));
  EXPECT_EQ(logprobs, (std::vector<int32_t>{-1, 1, 5, 5, 5, 7, 7, 7, 7}));
  EXPECT_EQ(positions, (std::vector<int32_t>{5, 5, 1, 2, 3, 1, 2, 3, 4}));
  std::vector<std::vector<int32_t>> rows;
  for (const OutputRow& row : batch.output_rows()) {
    rows.push_back({static_cast<int32_t>(row.id), row.sample, row.known_first, row.known});
  }
  EXPECT_EQ(rows[0], (std::vector<int32_t>{5, -1, 2, 3}));
  EXPECT_EQ(rows[1], (std::vector<int32_t>{6, 0, 5, 0}));
  EXPECT_EQ(rows[2], (std::vector<int32_t>{7, 1, 5, 4}));
  EXPECT_EQ(rows.size(), 3u);
}

TEST(PlacesTest, APlaceThatIsFreeAgainHasAnotherOwner) {
  Places places(2);
  plan::StepPlan plan;
  plan.rows = {{.id = 1}, {.id = 2}};
  places.Apply(plan);
  const graph::SequencePlace first = *places.Find(1), second = *places.Find(2);
  EXPECT_NE(first.index, second.index);
  EXPECT_LT(std::max(first.index, second.index), 2);
  plan.ends = {1, 77};  // the last never had rows
  plan.rows = {{.id = 3}, {.id = 2}};
  places.Apply(plan);
  EXPECT_EQ(places.Find(1), nullptr);
  EXPECT_EQ(places.Find(3)->index, first.index);
  EXPECT_NE(places.Find(3)->owner, first.owner);
  EXPECT_NE(places.Find(3)->owner, 0u);
  EXPECT_EQ(places.Find(2)->owner, second.owner);
}

}  // namespace
}  // namespace shoal::rank
