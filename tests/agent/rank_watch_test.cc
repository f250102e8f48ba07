#include "worker/agent/rank_watch.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "common/plan/control.h"
#include "tests/agent/fixture.h"
#include "worker/agent/ranks.h"

namespace shoal::agent {
namespace {

class ExitSink final : public AnswerSink {
 public:
  void Send(Answer answer) override {
    MutexLock lock(mutex_);
    exits_.push_back(std::get<plan::RankExit>(answer));
    changed_.NotifyAll();
  }
  void End(const absl::Status&) override {}
  std::vector<plan::RankExit> Wait(size_t count) {
    MutexLock lock(mutex_);
    while (exits_.size() < count && changed_.WaitFor(mutex_, testing::kPatience)) {
    }
    return exits_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<plan::RankExit> exits_ SHOAL_GUARDED_BY(mutex_);
};

// Processes that the agent takes for ranks; see fake_rank.cc.
class FakeRanks {
 public:
  explicit FakeRanks(const std::string& behaviours) : ranks_(FAKE_RANK, "", 5, &outbox_, {&stale_, &faults_}) {
    ::setenv("SHOAL_FAKE_RANKS", behaviours.c_str(), 1);
    EXPECT_TRUE(outbox_.Attach(sink_));
    memory_ = *device::SharedMemory::Create("test", 4096);
    std::vector<RankSpec> specs(static_cast<size_t>(std::count(behaviours.begin(), behaviours.end(), ',')) + 1);
    for (size_t i = 0; i < specs.size(); ++i) {
      specs[i].setup.rank = static_cast<int32_t>(i);
      specs[i].setup.limits = {4, 16, 2, 16, 64, 64};
      specs[i].weights_fd = specs[i].kv_fd = specs[i].channels_fd = memory_.fd();
    }
    const absl::Status started = ranks_.Start(specs);
    EXPECT_TRUE(started.ok()) << started;
    const absl::Status ready = ranks_.AwaitReady(cancelled_);
    EXPECT_TRUE(ready.ok()) << ready;
    const absl::Status handed = ranks_.Append({5, 1, 7}, "a plan");
    EXPECT_TRUE(handed.ok()) << handed;
  }
  ~FakeRanks() { ::unsetenv("SHOAL_FAKE_RANKS"); }

  Ranks& ranks() { return ranks_; }
  ExitSink& sink() { return *sink_; }
  DeviceFaults& faults() { return faults_; }
  uint64_t counted() const { return stale_.Read()[static_cast<size_t>(plan::StalePlace::kRecord)]; }
  // Polls: its end is noticed by a thread of its own.
  bool BecomesDead(size_t rank) {
    const RealClock clock;
    const TimeNs deadline = clock.Now() + std::chrono::nanoseconds(testing::kPatience).count();
    while (ranks_.Statuses()[rank].state != plan::RankState::kDead) {
      if (clock.Now() > deadline) return false;
      std::this_thread::yield();
    }
    return true;
  }

 private:
  const std::atomic<bool> cancelled_{false};
  Outbox outbox_;
  std::shared_ptr<ExitSink> sink_ = std::make_shared<ExitSink>();
  device::SharedMemory memory_;
  plan::StaleCounters stale_;
  DeviceFaults faults_;
  Ranks ranks_;
};

TEST(RankWatchTest, AProcessThatSpinsIsReportedOnceAndKilled) {
  FakeRanks fake("idle,works,waits,spins,tires,unheard");
  // The last one sleeps later than the spinning one spins: when it is reported, the others have been watched for longer
  // than it takes to be judged.
  const std::vector<plan::RankExit> exits = fake.sink().Wait(2);
  ASSERT_EQ(exits.size(), 2u);
  for (const plan::RankExit& exit : exits) {
    EXPECT_EQ(exit.cause, "stuck in attention at step 7");
    EXPECT_EQ(exit.epoch, 5u);
    EXPECT_GT(exit.pid, 0);
  }
  EXPECT_EQ(std::min(exits[0].rank, exits[1].rank), 3);
  EXPECT_EQ(std::max(exits[0].rank, exits[1].rank), 4);
  EXPECT_TRUE(fake.BecomesDead(3));
  EXPECT_TRUE(fake.BecomesDead(4));
  const auto statuses = fake.ranks().Statuses();
  for (const size_t r : {0, 1, 2, 5}) EXPECT_NE(statuses[r].state, plan::RankState::kDead) << r;
  EXPECT_EQ(statuses[1].waiting_for, std::nullopt);
  EXPECT_EQ(statuses[2].waiting_for, 0);
  EXPECT_EQ(statuses[5].waiting_for, plan::RankStatus::kAgent);
  fake.ranks().End();
  EXPECT_EQ(fake.sink().Wait(2).size(), 2u) << "killing them is no news";
}

TEST(RankWatchTest, AProcessThatSleepsOverAPlanIsReported) {
  FakeRanks fake("deaf");
  const std::vector<plan::RankExit> exits = fake.sink().Wait(1);
  ASSERT_EQ(exits.size(), 1u);
  EXPECT_EQ(exits[0].cause, "stuck in waiting for a plan at step 1");
}

TEST(RankWatchTest, AFaultOfADeviceIsRemembered) {
  FakeRanks fake("idle,faults,idle");
  EXPECT_EQ(fake.sink().Wait(1).size(), 1u);
  EXPECT_FALSE(fake.faults().Take(0));
  EXPECT_TRUE(fake.faults().Take(1));
  EXPECT_FALSE(fake.faults().Take(1)) << "of the next process alone";
}

TEST(RankWatchTest, EndingTheRanksEndsTheWatch) {
  FakeRanks fake("sleeps,spins");
  EXPECT_EQ(fake.ranks().StaleRecords(), 4u);
  EXPECT_EQ(fake.counted(), 0u);
  fake.ranks().End();
  EXPECT_EQ(fake.ranks().StaleRecords(), 0u);
  EXPECT_EQ(fake.counted(), 4u) << "what ranks have counted outlives them";
  EXPECT_TRUE(fake.ranks().Statuses().empty());
  EXPECT_TRUE(testing::Children().empty());
}

TEST(LookAtProcessTest, SeesThreadsThatComputeAndThoseThatSleep) {
  std::atomic<int> sleeper{0};
  std::atomic<bool> stop{false};
  std::thread other([&] {
    sleeper = ::gettid();
    stop.wait(false);
  });
  while (sleeper == 0) std::this_thread::yield();
  const auto find = [](const ProcessLook& look, pid_t id) {
    for (const auto& thread : look.threads) {
      if (thread.id == id) return thread;
    }
    return ProcessLook::Thread{};
  };
  const ProcessLook first = LookAtProcess(::getpid());
  EXPECT_TRUE(find(first, ::getpid()).running) << "it is reading this";
  ProcessLook look;
  do {  // computes
    look = LookAtProcess(::getpid());
  } while (find(look, ::getpid()).cpu < find(first, ::getpid()).cpu + 50 * kMillisecond);
  EXPECT_EQ(find(look, sleeper).id, sleeper.load());
  EXPECT_FALSE(find(look, sleeper).running);
  EXPECT_LE(find(look, sleeper).cpu, 20 * kMillisecond);
  stop = true;
  stop.notify_all();
  other.join();
}

TEST(LookAtProcessTest, AProcessThatIsNotThereHasNoThreads) { EXPECT_TRUE(LookAtProcess(1 << 30).threads.empty()); }

TEST(LookAtPageTest, BusyIsWhoExecutesOrHasAPlan) {
  rank::ControlPage page;
  page.step = 4;
  EXPECT_FALSE(LookAtPage(page, 9).busy) << "starting";
  page.state = static_cast<uint32_t>(plan::RankState::kReady);
  EXPECT_FALSE(LookAtPage(page, 4).busy);
  EXPECT_TRUE(LookAtPage(page, 5).busy);
  page.state = static_cast<uint32_t>(plan::RankState::kRunning);
  EXPECT_TRUE(LookAtPage(page, 4).busy);
  page.state = static_cast<uint32_t>(plan::RankState::kDead);
  EXPECT_TRUE(LookAtPage(page, 4).busy) << "it should go away";
  const uint64_t before = LookAtPage(page, 4).progress;
  ++page.waiting.looks;
  EXPECT_NE(LookAtPage(page, 4).progress, before);
}

}  // namespace
}  // namespace shoal::agent
