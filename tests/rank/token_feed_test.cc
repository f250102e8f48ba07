#include "worker/rank/token_feed.h"

#include <gtest/gtest.h>

#include "absl/status/statusor.h"
#include "kernels/ops/backends.h"
#include "tests/comm/group.h"

namespace shoal::rank {
namespace {

constexpr int kSlots = 4;

class TokenFeedTest : public ::testing::Test {
 protected:
  TokenFeedTest()
      : group_({.tp = 1, .pp = 1, .max_samples = 8, .mailbox_slots = kSlots}, comm::TestTransport::kLocal),
        mirror_(
            {.blocks = 64, .block_size = 16, .max_sequences = 8, .max_tokens = 64, .max_model_len = 64, .vocab = 100}),
        device_(device::MakeHostDevice(ops::FindOpTable("cpu").value(), 1)),
        places_(8),
        feed_(TokenFeed::Create(device_.get(), group_.rank(0).mailbox_in.get(), kSlots, 8, &places_).value()) {
    group_.abort(0) = 1;  // whatever would wait fails at once
  }

  plan::StepPlan& NewPlan() {
    plan_ = {};
    plan_.stamp.step = ++step_;
    return plan_;
  }
  void Start(plan::SequenceId id, std::vector<int32_t> tokens) {
    plan::SequenceStart& start = plan_.starts.emplace_back();
    start.id = id;
    start.prompt_tokens = static_cast<int32_t>(tokens.size());
    start.blocks = {next_block_++};
    plan_.rows.push_back({.id = id, .position = 0, .count = start.prompt_tokens, .output = plan::RowOutput::kSample});
    start.tokens = std::move(tokens);
  }
  void Continue(plan::SequenceId id, int position) {
    plan_.rows.push_back({.id = id,
                          .source = plan::TokenSource::kLastSample,
                          .position = position,
                          .count = 1,
                          .output = plan::RowOutput::kSample});
  }
  absl::StatusOr<std::vector<int32_t>> Ids() {
    const absl::Status applied = mirror_.Apply(plan_, false);
    if (!applied.ok()) return applied;
    places_.Apply(plan_);
    std::vector<int32_t> ids;
    absl::Status status = feed_.Sources(plan_, mirror_, &ids);
    const ops::GatherIdsArgs args = {ids.data(), feed_.last(), ids.data(), static_cast<int>(ids.size())};
    if (status.ok()) status = device_->table().gather_ids(device_->stream(), args);
    if (!status.ok()) return status;
    return ids;
  }
  absl::Status Post(uint64_t step, std::vector<int32_t> tokens) {
    return group_.rank(0).mailbox_out->Post(step, tokens);
  }

  comm::TestGroup group_;
  plan::PlanMirror mirror_;
  const std::unique_ptr<device::Device> device_;
  Places places_;
  TokenFeed feed_;
  plan::StepPlan plan_;
  uint64_t step_ = 0;
  int32_t next_block_ = 0;
};

using Tokens = std::vector<int32_t>;

TEST_F(TokenFeedTest, LiteralsComeFromTheMirrorAndSamplesFromTheirOwnStep) {
  NewPlan();
  Start(1, {11, 12, 13});
  Start(2, {21});
  EXPECT_EQ(Ids().value(), (Tokens{11, 12, 13, 21}));
  ASSERT_TRUE(Post(1, {50, 60}).ok());

  NewPlan();  // only one of them goes on; a third begins
  Continue(2, 1);
  Start(3, {31});
  EXPECT_EQ(Ids().value(), (Tokens{60, 31}));
  ASSERT_TRUE(Post(2, {61, 70}).ok());

  NewPlan();  // the first continues from a message taken long ago
  Continue(1, 3);
  Continue(2, 2);
  Continue(3, 1);
  EXPECT_EQ(Ids().value(), (Tokens{50, 61, 70}));
}

TEST_F(TokenFeedTest, WaitsForASampleThatARowNeeds) {
  NewPlan();
  Start(1, {11});
  EXPECT_TRUE(Ids().ok());
  NewPlan();
  Continue(1, 1);
  EXPECT_EQ(Ids().status().code(), absl::StatusCode::kAborted);
}

TEST_F(TokenFeedTest, DoesNotWaitForWhatNobodyNeeds) {
  for (int i = 1; i <= kSlots; ++i) {
    NewPlan();
    if (i > 1) plan_.ends.push_back(i - 1);
    Start(i, {10 + i});
    EXPECT_TRUE(Ids().ok()) << i;
  }
}

TEST_F(TokenFeedTest, TakesTheOldestMessageOnceTheMailboxWouldBeFull) {
  for (int i = 1; i <= kSlots; ++i) {
    NewPlan();
    if (i > 1) plan_.ends.push_back(i - 1);
    Start(i, {10 + i});
    ASSERT_TRUE(Ids().ok());
    ASSERT_TRUE(Post(i, {90 + i}).ok());
  }
  EXPECT_EQ(Post(kSlots + 1, {99}).code(), absl::StatusCode::kAborted) << "the mailbox is full";
  NewPlan();
  plan_.ends.push_back(kSlots);
  Start(kSlots + 1, {1});
  EXPECT_TRUE(Ids().ok());
  EXPECT_TRUE(Post(kSlots + 1, {99}).ok());
}

TEST_F(TokenFeedTest, ARowWithoutAFiniteLogitGoesOnAsTokenZero) {
  NewPlan();
  Start(1, {11});
  ASSERT_TRUE(Ids().ok());
  ASSERT_TRUE(Post(1, {-1}).ok());
  NewPlan();
  Continue(1, 1);
  EXPECT_EQ(Ids().value(), (Tokens{0}));
}

TEST_F(TokenFeedTest, ASampleOfAnIdsFormerLifeIsNotItsOwn) {
  NewPlan();
  Start(1, {11});
  ASSERT_TRUE(Ids().ok());
  ASSERT_TRUE(Post(1, {50}).ok());
  NewPlan();
  plan_.ends.push_back(1);
  Start(2, {22});
  ASSERT_TRUE(Ids().ok());
  ASSERT_TRUE(Post(2, {70}).ok());
  NewPlan();
  Start(1, {12});
  ASSERT_TRUE(Ids().ok());
  ASSERT_TRUE(Post(3, {60}).ok());
  NewPlan();
  Continue(1, 1);
  EXPECT_EQ(Ids().value(), (Tokens{60}));
}

TEST_F(TokenFeedTest, AnEndedSequencesSampleGoesToNobody) {
  NewPlan();
  Start(1, {11});
  Start(2, {22});
  ASSERT_TRUE(Ids().ok());
  ASSERT_TRUE(Post(1, {50, 60}).ok());
  NewPlan();
  plan_.ends.push_back(1);
  Start(3, {33});
  Continue(2, 1);
  EXPECT_EQ(Ids().value(), (Tokens{33, 60}));
}

}  // namespace
}  // namespace shoal::rank
