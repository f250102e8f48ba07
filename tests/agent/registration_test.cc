#include "worker/agent/registration.h"

#include <gtest/gtest.h>

#include "tests/agent/fixture.h"

namespace shoal::agent {
namespace {

// A registered session whose time the test turns.
class RegistrationTest : public ::testing::Test {
 protected:
  RegistrationTest() : session_(agents_->address(), &clock_) {
    plan::AgentInfo info;
    info.id = "a";
    info.address = "127.0.0.1:1";
    info.build_id = testing::OptionsFor("", 1).build_id;
    DurationNs interval = 0;
    const absl::Status registered = session_.Register(info, stop_, &interval);
    EXPECT_TRUE(registered.ok()) << registered;
    EXPECT_EQ(50 * kMillisecond, interval);
  }
  // Heartbeats between which `gap` passes, `count` at most; how they ended.
  absl::Status BeatWithGap(DurationNs gap, int count) {
    return session_.Beat(
        kMillisecond,
        [&] {
          plan::Heartbeat beat;
          beat.agent = "a";
          clock_.AdvanceTo(clock_.Now() + gap);
          stop_ = ++beats_ == count;
          return beat;
        },
        [this] { return due_; }, stop_);
  }

  testing::EventLog log_;
  std::unique_ptr<rpc::Agents> agents_ = testing::StartAgents(&log_);
  SimClock clock_;
  CoordinatorSession session_;
  std::atomic<bool> stop_{false};
  bool due_ = false;
  int beats_ = 0;
};

TEST_F(RegistrationTest, AnAgentThatStoodStillRegistersAgain) {
  const absl::Status ended = BeatWithGap(2501 * kMillisecond, 10);
  EXPECT_EQ(absl::StatusCode::kAborted, ended.code()) << ended;
  EXPECT_NE(std::string::npos, ended.message().find("stood still for 2501 ms")) << ended;
  EXPECT_EQ(1, beats_);
}

TEST_F(RegistrationTest, AnAgentThatIsLateGoesOn) {
  const absl::Status ended = BeatWithGap(2400 * kMillisecond, 10);
  EXPECT_EQ(absl::StatusCode::kCancelled, ended.code()) << ended;
  EXPECT_EQ(10, beats_);
}

TEST_F(RegistrationTest, AHeartbeatThatIsDueDoesNotWaitForItsTurn) {
  due_ = true;
  const absl::Status ended = BeatWithGap(0, 3);  // no time passes
  EXPECT_EQ(absl::StatusCode::kCancelled, ended.code()) << ended;
  EXPECT_EQ(3, beats_);
}

}  // namespace
}  // namespace shoal::agent
