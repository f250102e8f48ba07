// The core's thread with the real core: agents are played by the test, in real time.
#include "coordinator/server/core_thread.h"

#include <gtest/gtest.h>

#include <chrono>
#include <deque>
#include <future>

#include "common/base/check.h"
#include "common/plan/wire.h"
#include "coordinator/core/canary.h"
#include "tools/sim/virtual_cluster.h"

namespace shoal::server {
namespace {

// Effects for agents, and the last updates of requests.
class CoreThreadTest : public ::testing::Test {
 protected:
  void SetUp() override { Start(600 * kSecond); }  // agents that say nothing are not missed

  void Start(DurationNs heartbeat_timeout, DurationNs canary_interval = 0) {
    thread_.reset();
    core::CoreOptions options = sim::TestOptions();
    options.tp = options.pp = 1;
    options.heartbeat_timeout = heartbeat_timeout;
    options.canary_interval = canary_interval;
    thread_ = std::make_unique<CoreThread>(options, [this](const core::ClusterState& state) {
      ++models_made_;
      auto model = std::make_shared<http::ServedModel>();
      model->max_model_len = state.max_model_len;
      model->system_fingerprint = state.numerics_id;
      return model;
    });
    thread_->Start([this](const core::Effect& effect) {
      MutexLock lock(mutex_);
      effects_.push_back(effect);
      changed_.NotifyAll();
    });
  }

  // The next effect of this kind; those before it are dropped.
  template <typename T>
  T Await() {
    MutexLock lock(mutex_);
    for (;;) {
      while (!effects_.empty()) {
        const core::Effect effect = effects_.front();
        effects_.pop_front();
        if (const T* found = std::get_if<T>(&effect)) return *found;
      }
      SHOAL_CHECK(changed_.WaitFor(mutex_, std::chrono::seconds(20)));
    }
  }

  struct Last {
    std::promise<http::GenerateUpdate> promise;
    std::atomic<int> finishes{0};
  };
  std::shared_ptr<Last> Submit() {
    auto last = std::make_shared<Last>();
    core::GenerateRequest request;
    request.prompt = {1, 2, 3};
    request.max_tokens = 4;
    thread_->Submit(std::move(request), [last](http::GenerateUpdate update) {
      if (update.finished && last->finishes.fetch_add(1) == 0) last->promise.set_value(std::move(update));
    });
    return last;
  }
  static http::GenerateUpdate Get(const std::shared_ptr<Last>& last) {
    auto future = last->promise.get_future();
    SHOAL_CHECK(future.wait_for(std::chrono::seconds(20)) == std::future_status::ready);
    return future.get();
  }
  template <typename F>
  static void Until(const F& condition) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!condition() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    ASSERT_TRUE(condition());
  }

  // An agent with one slot that joins and loads as it is told.
  void FormGroup(const std::string& numerics_id = "numerics") {
    plan::AgentInfo agent;
    agent.id = "a";
    agent.incarnation = 1;
    agent.address = "127.0.0.1:1";
    agent.hostname = "h";
    agent.boot_id = "b";
    agent.build_id = sim::TestOptions().build_id;
    agent.slots = {{"cpu", 1, 1 << 20}};
    thread_->Post(core::AgentRegistered{agent});
    const auto join = Await<core::SendJoin>();
    plan::JoinReply reply;
    reply.numerics_id = numerics_id;
    reply.ranks = {{0, 1000, 1000, 1024, 1 << 20}};
    thread_->Post(core::JoinAnswered{"a", join.join.epoch, reply});
    const auto load = Await<core::SendLoad>();
    plan::LoadProgress progress;
    progress.agent = "a";
    progress.bytes_done = progress.bytes_total = 1000;
    progress.done = true;
    thread_->Post(core::LoadAdvanced{load.load.epoch, progress});
  }

  bool formed() const { return thread_->Cluster().groups_formed > 0; }

  std::atomic<int> models_made_{0};
  Mutex mutex_;
  CondVar changed_;
  std::deque<core::Effect> effects_;
  std::unique_ptr<CoreThread> thread_;  // last
};

TEST_F(CoreThreadTest, BeforeAGroupThereIsNoModelAndRequestsAreRefused) {
  EXPECT_EQ(thread_->Model(), nullptr);
  EXPECT_FALSE(thread_->Ready());
  EXPECT_EQ(thread_->Cluster().phase, core::ClusterState::Phase::kWaitingForAgents);
  const http::GenerateUpdate update = Get(Submit());
  EXPECT_EQ(update.reason, core::FinishReason::kError);
  EXPECT_EQ(update.error.code(), absl::StatusCode::kUnavailable);
}

TEST_F(CoreThreadTest, AGroupMakesTheModelOnceAndReady) {
  FormGroup();
  Until([&] { return thread_->Ready(); });
  EXPECT_EQ(thread_->Model()->system_fingerprint, "numerics");
  EXPECT_GT(thread_->Model()->max_model_len, 0);
  thread_->Post(core::AgentLost{"a", "gone"});
  Until([&] { return !thread_->Ready(); });
  EXPECT_NE(thread_->Model(), nullptr);  // what is served stays known
  FormGroup();
  Until([&] { return thread_->Ready(); });
  EXPECT_EQ(models_made_, 1);
  thread_->Post(core::AgentLost{"a", "gone"});
  Until([&] { return !thread_->Ready(); });
  FormGroup("other numerics");
  Until([&] { return thread_->Ready(); });
  EXPECT_EQ(models_made_, 2);
  EXPECT_EQ(thread_->Model()->system_fingerprint, "other numerics");
}

TEST_F(CoreThreadTest, ReadyOnlyOnceTheCanaryWasAnswered) {
  Start(60 * kSecond, 10 * kSecond);
  FormGroup();
  for (int step = 1; step <= 2 * core::CanaryWatch::kTokens; ++step) {  // until its answer is known
    const auto sent = Await<core::SendPlan>();
    Until([&] { return thread_->Cluster().canary_runs && thread_->Model() != nullptr; });
    EXPECT_FALSE(thread_->Ready()) << "step " << step;
    const auto plan = plan::DecodePlan(sent.bytes);
    ASSERT_TRUE(plan.ok()) << plan.status();
    plan::StepResult result;
    result.stamp = plan->stamp;
    for (const plan::Row& row : plan->rows) result.rows.push_back({row.id, {7}, plan::RowError::kNone, {}});
    thread_->Post(core::StepAnswered{"a", result});
  }
  Until([&] { return thread_->Ready(); });
  EXPECT_EQ(thread_->Cluster().canary_passes, 1u);
}

TEST_F(CoreThreadTest, ARequestBecomesAPlanAndACancelEndsIt) {
  FormGroup();
  Until([&] { return thread_->Ready(); });
  auto last = std::make_shared<Last>();
  core::GenerateRequest request;
  request.prompt = {1, 2, 3};
  request.max_tokens = 4;
  const core::RequestId id = thread_->Submit(request, [last](http::GenerateUpdate update) {
    if (update.finished && last->finishes.fetch_add(1) == 0) last->promise.set_value(std::move(update));
  });
  EXPECT_EQ(Await<core::SendPlan>().agents, std::vector<plan::AgentId>{"a"});
  Until([&] { return thread_->Cluster().running == 1; });
  thread_->Cancel(id, core::CancelCause::kDisconnect);
  EXPECT_EQ(Get(last).reason, core::FinishReason::kCancelled);
  thread_->Cancel(id, core::CancelCause::kDisconnect);  // harmless
  Until([&] { return thread_->Cluster().running == 0; });
  EXPECT_EQ(last->finishes, 1);
}

TEST_F(CoreThreadTest, StopEndsEveryRequestExactlyOnce) {
  FormGroup();
  Until([&] { return thread_->Ready(); });
  std::vector<std::shared_ptr<Last>> open;
  for (int i = 0; i < 8; ++i) open.push_back(Submit());
  thread_->Stop(absl::UnavailableError("going down"));
  open.push_back(Submit());  // too late
  for (const auto& last : open) {
    const http::GenerateUpdate update = Get(last);
    EXPECT_EQ(update.reason, core::FinishReason::kError);
    EXPECT_EQ(update.error.code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(last->finishes, 1);
  }
}

TEST_F(CoreThreadTest, StopCountsWhatSomebodyStillWaitsFor) {
  FormGroup();
  Until([&] { return thread_->Ready(); });
  const auto running = Submit(), gone = Submit();
  Until([&] { return thread_->Cluster().running + thread_->Cluster().waiting == 2; });
  thread_->Cancel(2, core::CancelCause::kDisconnect);  // heard or not
  EXPECT_EQ(thread_->Stop(absl::UnavailableError("going down")), 1);
  EXPECT_EQ(thread_->Stop(absl::UnavailableError("again")), 0);
  EXPECT_EQ(Get(running).error.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(gone->finishes, 1);
}

TEST_F(CoreThreadTest, TimersFire) {
  Start(200 * kMillisecond);
  FormGroup();
  // No heartbeat comes: the core's timer must find out by itself.
  Until([&] { return thread_->Cluster().phase == core::ClusterState::Phase::kWaitingForAgents && formed(); });
}

}  // namespace
}  // namespace shoal::server
