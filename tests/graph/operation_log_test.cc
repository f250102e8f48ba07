#include "worker/graph/operation_log.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "worker/device/device.h"

namespace shoal::graph {
namespace {

class OperationLogTest : public ::testing::Test {
 protected:
  // A device that has failed once `op` is under way.
  void FailIn(Operation op) {
    log_.Check([this, op] {
      waits_.push_back(shown_);
      return shown_ == static_cast<uint32_t>(op) ? absl::InternalError("illegal") : absl::OkStatus();
    });
  }

  const std::unique_ptr<device::Device> device_ = device::MakeHostDevice(nullptr, 1);
  std::atomic<uint32_t> shown_{0};
  std::atomic<uint64_t> progress_{0};
  OperationLog log_{&shown_, &device_->stream()};
  std::vector<uint32_t> waits_;
};

TEST_F(OperationLogTest, ShowsWhatRunsAndKeepsWhatHasRun) {
  device_->stream().progress = &progress_;
  log_.Begin(Operation::kEmbed);
  log_.Begin(Operation::kAttention);
  log_.Begin(Operation::kEmbed);
  EXPECT_EQ(static_cast<uint32_t>(Operation::kEmbed), shown_);
  EXPECT_EQ(3u, progress_);
  log_.Show(Operation::kAwait);
  EXPECT_EQ(static_cast<uint32_t>(Operation::kAwait), shown_);
  const OperationSet both = log_.Take();
  EXPECT_EQ("embedding, attention", OperationNames(both));
  EXPECT_TRUE(log_.Take().none());
  log_.Begin(Operation::kGraph);
  log_.Add(both);
  EXPECT_EQ("embedding, attention, launching a recorded step", OperationNames(log_.Take()));
  EXPECT_FALSE(log_.Failed().has_value());
}

TEST_F(OperationLogTest, TheOperationBeforeTheFailedWaitIsTheOne) {
  FailIn(Operation::kRope);
  EXPECT_TRUE(log_.checked());
  for (const Operation op : {Operation::kQkv, Operation::kRope, Operation::kAttention, Operation::kDown})
    log_.Begin(op);
  ASSERT_TRUE(log_.Failed().has_value());
  EXPECT_EQ(Operation::kRope, *log_.Failed());
  EXPECT_EQ(3u, waits_.size()) << "nobody waits for a device that has failed";
}

TEST_F(OperationLogTest, TheLastOneIsWaitedForWhenAsked) {
  FailIn(Operation::kSample);
  log_.Begin(Operation::kHead);
  log_.Begin(Operation::kSample);
  EXPECT_EQ(Operation::kSample, log_.Failed());
}

TEST_F(OperationLogTest, AWaitThatIsCutShortIsNoFault) {
  log_.Check([] { return absl::AbortedError("the group was aborted"); });
  log_.Begin(Operation::kHead);
  log_.Begin(Operation::kSample);
  EXPECT_FALSE(log_.Failed().has_value());
}

TEST_F(OperationLogTest, NothingIsWaitedForWhenNotChecked) {
  FailIn(Operation::kRope);
  log_.Check(nullptr);
  EXPECT_FALSE(log_.checked());
  log_.Begin(Operation::kRope);
  log_.Begin(Operation::kAttention);
  EXPECT_FALSE(log_.Failed().has_value());
  EXPECT_TRUE(waits_.empty());
}

}  // namespace
}  // namespace shoal::graph
