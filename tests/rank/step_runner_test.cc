// What a step leaves for the host to read, and what it says meanwhile: on an accelerator, where several are enqueued
// before the first is looked at.
#include "worker/rank/step_runner.h"

#include <gtest/gtest.h>

#include "tests/rank/accelerator_cluster.h"

namespace shoal::testing {
namespace {

constexpr int kStepsAhead = 2;
constexpr int kPrompt = 5;

using Results = std::pair<std::vector<int32_t>, std::vector<uint64_t>>;  // tokens, checksums
Results Read(const rank::EnqueuedStep& step) {
  return {{step.tokens.begin(), step.tokens.end()}, {step.sums.begin(), step.sums.end()}};
}

// One rank's runner, and the plans for it.
class Runner {
 public:
  explicit Runner(bool lazy) : cluster_(1, 1, lazy), mirror_(cluster_.ranks->limits()) {
    RankSet::Rank& rank = cluster_.ranks->rank(0);
    parts_.limits = cluster_.ranks->limits();
    parts_.device = rank.device.get();
    parts_.decoder = std::move(rank.decoder);
    parts_.kv = rank.kv;
    parts_.comm = &cluster_.ranks->group().rank(0);
    parts_.page = rank.page.get();
    parts_.operations = rank.operations.get();
    parts_.clock = &clock_;
    parts_.device->stream().progress = &progress_;
    runner_ = rank::StepRunner::Create(&parts_, kStepsAhead).value();
  }

  // Starts one more sequence in a block of its own, lets those before go on, and asks for checksums.
  rank::EnqueuedStep Enqueue() {
    plan::StepPlan plan;
    plan.stamp = {.epoch = 1, .incarnation = 1, .step = ++step_};
    plan.checksum = true;
    const int fresh = static_cast<int>(step_);
    for (int id = 1; id < fresh; ++id) {
      plan::Row& row = plan.rows.emplace_back();
      row.id = id;
      row.source = plan::TokenSource::kLastSample;
      row.position = kPrompt + fresh - id - 1;
      row.count = 1;
      row.output = plan::RowOutput::kSample;
    }
    plan::SequenceStart& start = plan.starts.emplace_back();
    start.id = fresh;
    start.prompt_tokens = kPrompt;
    start.tokens = Ids(kPrompt, fresh);
    start.blocks = {fresh};
    plan.rows.push_back({.id = start.id, .position = 0, .count = kPrompt, .output = plan::RowOutput::kSample});
    const absl::Status applied = mirror_.Apply(plan, false);
    EXPECT_TRUE(applied.ok()) << applied;
    rank::EnqueuedStep step;
    const absl::Status enqueued = runner_->Enqueue(
        plan, mirror_, [] { return absl::InternalError("no sample depends on tokens"); }, &step);
    EXPECT_TRUE(enqueued.ok()) << enqueued;
    return step;
  }
  void Await(const rank::EnqueuedStep& step) {
    while (true) {
      const absl::StatusOr<bool> reached = parts_.device->Reached(step.mark);
      ASSERT_TRUE(reached.ok()) << reached.status();
      if (*reached) return;
    }
  }
  uint64_t progress() const { return progress_; }

 private:
  const RealClock clock_;
  std::atomic<uint64_t> progress_ = 0;
  AcceleratorCluster cluster_;
  plan::PlanMirror mirror_;
  rank::EngineParts parts_;
  std::unique_ptr<rank::StepRunner> runner_;
  uint64_t step_ = 0;
};

TEST(StepRunnerTest, WhatAStepGaveStaysUntilAsManyMoreAreEnqueued) {
  for (const bool lazy : {false, true}) {
    Runner in_time(lazy), late(lazy);
    std::vector<Results> expected, got;
    std::vector<rank::EnqueuedStep> unread;
    for (int i = 0; i < 6; ++i) {
      const rank::EnqueuedStep step = in_time.Enqueue();
      in_time.Await(step);
      expected.push_back(Read(step));
      ASSERT_EQ(expected.back().first.size(), static_cast<size_t>(i + 1));
      ASSERT_FALSE(expected.back().second.empty());

      unread.push_back(late.Enqueue());
      if (unread.size() < kStepsAhead) continue;
      late.Await(unread.back());
      for (const rank::EnqueuedStep& one : unread) got.push_back(Read(one));
      unread.clear();
    }
    EXPECT_NE(expected[0].second, expected[1].second) << "or one in the place of another would not be seen";
    EXPECT_EQ(got, expected) << (lazy ? "lazy" : "eager");
  }
}

TEST(StepRunnerTest, EachLayerOfALongStepIsProgressWhenItIsDone) {
  Runner runner(true);
  const rank::EnqueuedStep step = runner.Enqueue();
  const uint64_t enqueued = runner.progress();
  runner.Await(step);
  EXPECT_EQ(runner.progress(), enqueued + kTiny.layers);
}

}  // namespace
}  // namespace shoal::testing
