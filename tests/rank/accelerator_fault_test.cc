// What fails on an accelerator, here an emulated one that is told to, is told with its step.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <map>
#include <set>
#include <string>
#include <thread>

#include "kernels/cuda/emulated/accelerator.h"
#include "tests/comm/emulated_nccl.h"
#include "tests/rank/accelerator_cluster.h"
#include "worker/comm/nccl.h"

namespace shoal::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// What a group of one says that it ended with, after its only rank's device has failed.
std::string Told(AcceleratorCluster& cluster, Engines& engines, const DriverOptions& options = {}) {
  EXPECT_FALSE(RunRequests(engines, cluster.ranks->limits(), Requests(), options).ok());
  const std::vector<absl::Status> ended = engines.Stop();
  EXPECT_EQ(ended[0].code(), absl::StatusCode::kInternal) << ended[0];
  std::string text(ended[0].message());
  std::vector<std::string> errors;
  for (const plan::StepResult& result : engines.errors()) errors.push_back(result.error);
  EXPECT_THAT(errors, ::testing::ElementsAre(HasSubstr(text)));
  EXPECT_EQ(1u, cluster.ranks->rank(0).page->device_failed);
  return text;
}

TEST(AcceleratorFaultTest, AFaultIsToldWithStepsSequencesAndWhatTheyHaveEnqueued) {
  AcceleratorCluster cluster;
  cuda::emulated::FailLaunch(*cluster.accelerators[0], 100);
  Engines engines(*cluster.ranks);
  EXPECT_THAT(Told(cluster, engines),
              AllOf(HasSubstr("illegal"), HasSubstr("(step "), HasSubstr("sequences 1, 2"),
                    HasSubstr("; one of: waiting for sampled tokens, embedding, attention norm"),
                    HasSubstr("sampling, posting tokens)")));
}

TEST(AcceleratorFaultTest, OfARecordedStepItIsToldWhatWasRecorded) {
  AcceleratorCluster cluster;
  Engines engines(*cluster.ranks);
  cuda::emulated::FailLaunch(*cluster.accelerators[0], 400);  // prompts are not recorded
  EXPECT_THAT(Told(cluster, engines, {.graphs = true}),
              AllOf(HasSubstr("; one of: "), HasSubstr("attention norm"), HasSubstr("launching a recorded step")));
}

// As the emulated device names the kernel, which a real one does not.
TEST(AcceleratorFaultTest, AStepThatIsCheckedNamesTheOperation) {
  const std::map<std::string, std::string> kOperationOf = {
      {"rms_norm", "norm"}, {"rope_kv", "rope and cache write"}, {"glu", "activation"}, {"embed", "embedding"}};
  std::set<std::string> operations;
  int compared = 0;
  for (int launch = 20; launch < 60; ++launch) {
    AcceleratorCluster cluster;
    cuda::emulated::FailLaunch(*cluster.accelerators[0], launch);
    Engines engines(*cluster.ranks, 1000);
    const std::string told = Told(cluster, engines, {.graphs = true});
    EXPECT_THAT(told, AllOf(HasSubstr("(step "), HasSubstr("; in "), Not(HasSubstr("one of"))));
    const std::string kernel = told.substr(0, told.find(':'));
    const size_t at = told.find("; in ");
    const std::string operation = told.substr(at + 5, told.size() - at - 6);
    operations.insert(operation);
    const auto expected = kOperationOf.find(kernel);
    if (expected == kOperationOf.end()) continue;
    EXPECT_THAT(operation, HasSubstr(expected->second)) << told;
    ++compared;
  }
  EXPECT_GE(operations.size(), 8u);
  EXPECT_GE(compared, 8);
}

TEST(AcceleratorFaultTest, CheckedStepsGiveTheSameTokens) {
  // What is staged through the host is not recorded.
  for (const auto& [ranks, graphs] : {std::pair(1, true), std::pair(2, false)}) {
    const DriverOptions options = {.graphs = graphs};
    AcceleratorCluster plain(ranks, ranks), checked(ranks, ranks);
    const auto expected = RunAlone(*plain.ranks, Requests(), options);
    ASSERT_TRUE(expected.ok()) << expected.status();
    Engines engines(*checked.ranks, 7);  // the rest is not checked
    const auto got = RunRequests(engines, checked.ranks->limits(), Requests(), options);
    ASSERT_TRUE(got.ok()) << got.status();
    for (const absl::Status& ended : engines.Stop()) EXPECT_TRUE(ended.ok()) << ended;
    EXPECT_GT(got->plans, 14);
    EXPECT_EQ(got->bucketed > 7, graphs);
    EXPECT_EQ(expected->tokens, got->tokens);
  }
}

TEST(AcceleratorFaultTest, AFaultMayBeProvoked) {
  AcceleratorCluster cluster;
  Engines engines(*cluster.ranks, 1000);
  engines.ProvokeFault(0);
  EXPECT_THAT(Told(cluster, engines), AllOf(HasSubstr("illegal memory access"), HasSubstr("; in copying blocks")));
}

// The only rank of a cluster, whose device stands still behind the first tokens of a recorded step, as one does that
// waits for a rank that is gone, until the channels are ended.
class Standstill final : public comm::CommWatch {
 public:
  explicit Standstill(AcceleratorCluster& cluster)
      : accelerator_(*cluster.accelerators[0]), comm_(cluster.ranks->group().rank(0)) {
    const auto rendezvous = comm::NcclRendezvous::Open({.api = nccl_.get(),
                                                        .accelerator = &accelerator_,
                                                        .shape = {.max_samples = cluster.ranks->limits().max_sequences},
                                                        .abort = &flag_});
    const std::string address = (*rendezvous)->address();
    on_device_ = (*rendezvous)->Connect({&address, 1}, 30 * kSecond).value();
    comm_.mailbox_in = std::move(on_device_.mailbox_in);
    comm_.mailbox_out = std::make_unique<Outbox>(this, std::move(on_device_.mailbox_out));
    comm_.watch = this;
  }
  ~Standstill() override {  // before the device
    comm_.mailbox_in = nullptr;
    comm_.mailbox_out = nullptr;
  }

  // Until a step was enqueued behind the one where the device stands still.
  bool AwaitStepBehind() const {
    const TimeNs end = RealClock().Now() + 60 * kSecond;
    while (held_ < 2 && RealClock().Now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return held_ >= 2;
  }
  void Find(const absl::Status& found) {
    found_ = found;
    finds_ = true;
  }
  // Graphs that were there when the channels ended; -1: they have not.
  int graphs_at_end() const { return graphs_at_end_; }

  absl::Status Poll() override { return finds_ ? found_ : absl::OkStatus(); }
  void Abort() override {
    graphs_at_end_ = cuda::emulated::GraphCount(accelerator_);
    ended_ = true;
  }

 private:
  class Outbox final : public comm::TokenMailbox {
   public:
    Outbox(Standstill* still, std::unique_ptr<comm::TokenMailbox> box) : still_(*still), box_(std::move(box)) {}
    absl::Status Post(uint64_t step, std::span<const int32_t> tokens) override {
      const absl::Status posted = box_->Post(step, tokens);
      return posted.ok() ? still_.Hold() : posted;
    }
    absl::Status Take(uint64_t step, std::span<int32_t> tokens) override { return box_->Take(step, tokens); }

   private:
    Standstill& still_;
    const std::unique_ptr<comm::TokenMailbox> box_;
  };

  absl::Status Hold() {
    if (cuda::emulated::GraphCount(accelerator_) == 0) return absl::OkStatus();
    ++held_;
    return static_cast<cuda::emulated::Queue*>(accelerator_.native_stream())->Enqueue("standstill", [this] {
      while (!ended_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return absl::OkStatus();
    });
  }

  ops::Accelerator& accelerator_;
  comm::RankComm& comm_;
  comm::NcclWorld world_;
  const std::unique_ptr<comm::NcclApi> nccl_ = comm::MakeEmulatedNccl(&world_);
  comm::AbortFlag flag_{0};
  comm::RankComm on_device_;
  absl::Status found_;
  std::atomic<bool> finds_{false}, ended_{false};
  std::atomic<int> held_{0}, graphs_at_end_{-1};
};

// NCCL ends its operations only once no graph has them; what is under way of a graph then waits for that end.
TEST(AcceleratorFaultTest, GraphsUnderWayAreForgottenBeforeTheChannelsEnd) {
  AcceleratorCluster cluster(1, 1, /*lazy=*/false);
  Standstill still(cluster);
  Engines engines(*cluster.ranks);
  auto run = std::async(std::launch::async,
                        [&] { return RunRequests(engines, cluster.ranks->limits(), Requests(), {.graphs = true}); });
  ASSERT_TRUE(still.AwaitStepBehind());
  EXPECT_EQ(still.graphs_at_end(), -1);
  cluster.ranks->rank(0).page->abort = 1;
  EXPECT_FALSE(run.get().ok());
  const absl::Status ended = engines.Stop()[0];
  EXPECT_EQ(ended.code(), absl::StatusCode::kAborted) << ended;
  EXPECT_EQ(still.graphs_at_end(), 0);
  EXPECT_TRUE(engines.errors().empty());
}

TEST(AcceleratorFaultTest, WhatTheTransportFindsIsToldWithTheStepsUnderWay) {
  AcceleratorCluster cluster(1, 1, /*lazy=*/false);
  Standstill still(cluster);
  Engines engines(*cluster.ranks);
  auto run = std::async(std::launch::async,
                        [&] { return RunRequests(engines, cluster.ranks->limits(), Requests(), {.graphs = true}); });
  ASSERT_TRUE(still.AwaitStepBehind());
  still.Find(absl::InternalError("unhandled cuda error"));
  EXPECT_FALSE(run.get().ok());
  const absl::Status ended = engines.Stop()[0];
  EXPECT_EQ(ended.code(), absl::StatusCode::kInternal) << ended;
  EXPECT_EQ(still.graphs_at_end(), 0);
  ASSERT_EQ(engines.errors().size(), 1u);
  EXPECT_THAT(engines.errors()[0].error,
              AllOf(HasSubstr("unhandled cuda error (a step of "), HasSubstr("sequences 1, 2")));
  EXPECT_EQ(0u, cluster.ranks->rank(0).page->device_failed) << "it is the transport's";
}

}  // namespace
}  // namespace shoal::testing
