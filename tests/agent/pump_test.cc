#include "worker/agent/pump.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/agent/fixture.h"

namespace shoal::agent {
namespace {

class CollectingSink final : public AnswerSink {
 public:
  void Send(Answer answer) override {
    MutexLock lock(mutex_);
    answers_.push_back(std::move(answer));
    changed_.NotifyAll();
  }
  void End(const absl::Status& status) override {
    MutexLock lock(mutex_);
    end_ = status;
  }
  std::vector<Answer> Wait(size_t count) {
    MutexLock lock(mutex_);
    while (answers_.size() < count && changed_.WaitFor(mutex_, testing::kPatience)) {
    }
    return answers_;
  }
  absl::Status end() {
    MutexLock lock(mutex_);
    return end_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<Answer> answers_ SHOAL_GUARDED_BY(mutex_);
  absl::Status end_ SHOAL_GUARDED_BY(mutex_);
};

std::string BytesOf(const Answer& answer) { return std::get<ResultBytes>(answer).bytes; }

TEST(Outbox, KeepsAnswersUntilThereIsAStream) {
  Outbox outbox;
  outbox.Push(ResultBytes{{1, 1, 1}, 0, "a"});
  outbox.Push(plan::RankExit{2, 99, 1, "killed"});
  const auto sink = std::make_shared<CollectingSink>();
  EXPECT_TRUE(outbox.Attach(sink));
  outbox.Push(ResultBytes{{1, 1, 2}, 0, "b"});
  const auto answers = sink->Wait(3);
  ASSERT_EQ(3u, answers.size());
  EXPECT_EQ("a", BytesOf(answers[0]));
  EXPECT_EQ(2, std::get<plan::RankExit>(answers[1]).rank);
  EXPECT_EQ("b", BytesOf(answers[2]));
}

TEST(Outbox, AnotherStreamReplacesTheFormer) {
  Outbox outbox;
  const auto first = std::make_shared<CollectingSink>(), second = std::make_shared<CollectingSink>();
  EXPECT_TRUE(outbox.Attach(first));
  EXPECT_TRUE(outbox.Attach(second));
  EXPECT_EQ(absl::StatusCode::kAborted, first->end().code());
  outbox.Detach(first.get());  // its late end takes nothing away
  outbox.Push(ResultBytes{{1, 1, 1}, 0, "a"});
  EXPECT_EQ(1u, second->Wait(1).size());
  EXPECT_EQ(0u, first->Wait(0).size());
}

TEST(Outbox, CloseEndsTheStreamAndTakesNothingMore) {
  Outbox outbox;
  const auto sink = std::make_shared<CollectingSink>();
  EXPECT_TRUE(outbox.Attach(sink));
  outbox.Close(absl::AbortedError("over"));
  EXPECT_EQ(absl::AbortedError("over"), sink->end());
  outbox.Push(ResultBytes{{1, 1, 1}, 0, "a"});
  EXPECT_EQ(0u, sink->Wait(0).size());
  EXPECT_FALSE(outbox.Attach(sink));
}

// A result ring with its writer and the pump that empties it.
class PumpTest : public ::testing::Test {
 protected:
  PumpTest() : memory_(plan::RingBytes(1 << 14)), writer_(*plan::RingWriter::Create(memory_)) {
    EXPECT_TRUE(writer_.AttachReader().ok());
    outbox_.Attach(sink_);
    pump_ = std::make_unique<ResultPump>(*plan::RingReader::Attach(memory_, 0), plan::RankExit{6, 99, 4, ""}, &outbox_);
  }
  std::vector<std::byte> memory_;
  plan::RingWriter writer_;
  Outbox outbox_;
  std::shared_ptr<CollectingSink> sink_ = std::make_shared<CollectingSink>();
  std::unique_ptr<ResultPump> pump_;
};

TEST_F(PumpTest, ForwardsInOrderWithStampAndRank) {
  for (uint64_t step = 1; step <= 200; ++step) {
    while (!writer_.Append(plan::RecordKind::kResult, {4, 5, step}, absl::StrCat("result ", step)).ok()) {
    }
  }
  const auto answers = sink_->Wait(200);
  ASSERT_EQ(200u, answers.size());
  for (uint64_t step = 1; step <= 200; ++step) {
    const auto& result = std::get<ResultBytes>(answers[step - 1]);
    EXPECT_EQ((plan::Stamp{4, 5, step}), result.stamp);
    EXPECT_EQ(6, result.rank);
    EXPECT_EQ(absl::StrCat("result ", step), result.bytes);
  }
}

TEST_F(PumpTest, EndTakesWhatIsStillInTheRing) {
  for (uint64_t step = 1; step <= 50; ++step) {
    ASSERT_TRUE(writer_.Append(plan::RecordKind::kResult, {4, 5, step}, "x").ok());
  }
  pump_.reset();
  EXPECT_EQ(50u, sink_->Wait(0).size());
}

TEST_F(PumpTest, RecordsThatAreNoResultsCountAsTheRanksEnd) {
  ASSERT_TRUE(writer_.Append(plan::RecordKind::kPlan, {4, 5, 1}, "plan").ok());
  const auto answers = sink_->Wait(1);
  ASSERT_EQ(1u, answers.size());
  const auto& exit = std::get<plan::RankExit>(answers[0]);
  EXPECT_EQ(6, exit.rank);
  EXPECT_EQ(4u, exit.epoch);
  EXPECT_NE(std::string::npos, exit.cause.find("spoilt")) << exit.cause;
}

}  // namespace
}  // namespace shoal::agent
