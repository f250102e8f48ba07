// Groups whose ranks publish addresses and connect: the way there through agents and coordinator/rpc, and what may be
// wrong on it.
#include <gtest/gtest.h>

#include <csignal>
#include <map>

#include "absl/strings/str_cat.h"
#include "tests/agent/fixture.h"
#include "worker/comm/gloo_address.h"

namespace shoal {
namespace {

using testing::AgentThread;
using testing::Children;
using testing::EventLog;
using testing::FreePort;
using testing::OptionsFor;
using testing::StartAgents;
using testing::TinyGroup;

const std::vector<int32_t> kPrompt = {72, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100};

class RendezvousTest : public ::testing::Test {
 protected:
  void StartAgent(int slots) { StartAgent(OptionsFor(agents_->address(), slots)); }
  void StartAgent(const agent::AgentOptions& options) {
    running_.push_back(std::make_unique<AgentThread>(options));
    auto event = log_.Take<core::AgentRegistered>();
    ASSERT_TRUE(event.has_value());
    members_.push_back(event->info);
  }
  // The pids of the group's ranks, when heartbeats have told all.
  std::map<int32_t, int32_t> Pids(uint64_t epoch, size_t ranks) {
    std::map<int32_t, int32_t> pids;
    while (pids.size() < ranks) {
      const auto beat = log_.Take<core::HeartbeatReceived>(
          [&](const auto& e) { return e.heartbeat.epoch == epoch && !e.heartbeat.ranks.empty(); });
      if (!beat.has_value()) break;
      for (const plan::RankStatus& r : beat->heartbeat.ranks) {
        if (r.pid > 0) pids[r.rank] = r.pid;
      }
    }
    return pids;
  }

  EventLog log_;
  std::unique_ptr<rpc::Agents> agents_ = StartAgents(&log_);
  std::vector<plan::AgentInfo> members_;
  std::vector<std::unique_ptr<AgentThread>> running_;
};

TEST_F(RendezvousTest, TwoAgentsOverGlooAnswerAsOneRank) {
  StartAgent(2);
  StartAgent(2);
  for (const char* device : {"null", "ref"}) {
    const uint64_t first = *device == 'n' ? 1 : 3;
    TinyGroup alone(&log_, agents_.get(), device);
    alone.Form(first, 1, 1, {members_[0]});
    const std::vector<int32_t> expected = alone.Generate(kPrompt, 8);
    TinyGroup group(&log_, agents_.get(), device, "gloo");
    ASSERT_EQ(2u, group.Form(first + 1, 2, 2, members_).size());
    EXPECT_EQ(expected, group.Generate(kPrompt, 8)) << device;
  }
  std::map<int32_t, plan::RankStatus> last;
  while (last.size() < 4) {
    const auto beat = log_.Take<core::HeartbeatReceived>([](const auto& e) {
      return e.heartbeat.epoch == 4 && e.heartbeat.ranks.size() == 2 && e.heartbeat.ranks[0].step == 8 &&
             e.heartbeat.ranks[1].step == 8;
    });
    ASSERT_TRUE(beat.has_value());
    for (const plan::RankStatus& r : beat->heartbeat.ranks) last[r.rank] = r;
  }
  for (const auto& [rank, status] : last) {
    for (const auto& [transport, bytes] : status.comm_bytes) {
      EXPECT_EQ(bytes > 0, transport == "gloo") << "rank " << rank << " sent " << bytes << " over " << transport;
    }
  }
}

// The coordinator takes the way that is advertised; ranks are told of addresses that are this host's own.
TEST_F(RendezvousTest, WhatIsAdvertisedIsForTheCoordinatorOnly) {
  agent::AgentOptions options = OptionsFor(agents_->address(), 2);
  const int port = FreePort();
  options.listen = absl::StrCat("0.0.0.0:", port);
  options.advertise = absl::StrCat("127.0.0.3:", port);
  options.insecure = true;
  StartAgent(options);
  EXPECT_EQ(options.advertise, members_[0].address);
  TinyGroup group(&log_, agents_.get(), "null", "gloo");
  group.Join(1, 2, 1, members_);
  ASSERT_TRUE(log_.Take<core::JoinAnswered>().has_value());
  const plan::ConnectRanks published = group.LoadUntilPublished(1, members_);
  ASSERT_EQ(2u, published.ranks.size());
  for (const plan::RankAddress& rank : published.ranks) {
    const auto address = comm::DecodeAddress(rank.bytes, 2);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ("127.0.0.1", address->host);
  }
  group.Form(2, 2, 1, members_);
  EXPECT_EQ(3u, group.Generate(kPrompt, 3).size());
}

TEST_F(RendezvousTest, AKilledRankIsNamedFirstAndTheGroupFormsAgain) {
  StartAgent(2);
  StartAgent(2);
  TinyGroup group(&log_, agents_.get(), "null", "gloo");
  group.Form(1, 2, 2, members_);
  const std::vector<int32_t> before = group.Generate(kPrompt, 6);
  const auto pids = Pids(1, 4);
  ASSERT_EQ(4u, pids.size());
  ASSERT_EQ(0, ::kill(pids.at(3), SIGKILL));
  const auto exit = log_.Take<core::RankExited>();
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(3, exit->exit.rank);
  EXPECT_EQ("killed by signal 9", exit->exit.cause);
  for (const auto& load : group.Form(2, 2, 2, members_)) EXPECT_TRUE(load.reused);
  EXPECT_EQ(before, group.Generate(kPrompt, 6));
  EXPECT_EQ(0, log_.Count<core::AgentLost>());
}

// Nobody aborts the group: a rank that waits for the dead one ends by itself, and says that it is not to blame.
TEST_F(RendezvousTest, RanksThatLoseAnotherEndByThemselves) {
  StartAgent(1);
  StartAgent(1);
  TinyGroup group(&log_, agents_.get(), "null", "gloo");
  group.Form(1, 2, 1, members_);
  EXPECT_EQ(2u, group.Generate(kPrompt, 2).size());
  const auto pids = Pids(1, 2);
  ASSERT_EQ(2u, pids.size());
  ASSERT_EQ(0, ::kill(pids.at(1), SIGKILL));
  ASSERT_TRUE(log_.Take<core::RankExited>([](const auto& e) { return e.exit.rank == 1; }).has_value());
  group.SendStep();
  const auto exit = log_.Take<core::RankExited>([](const auto& e) { return e.exit.rank == 0; });
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(0u, exit->exit.cause.find("exited with 4: rank 0: UNAVAILABLE: lost rank 1")) << exit->exit.cause;
  EXPECT_EQ(0, log_.Count<core::StepAnswered>());
}

TEST_F(RendezvousTest, AddressesAreTakenOnceAndOnlyOfTheGroup) {
  StartAgent(2);
  TinyGroup group(&log_, agents_.get(), "null", "gloo");
  group.Join(1, 2, 1, members_);
  ASSERT_TRUE(log_.Take<core::JoinAnswered>().has_value());
  const std::string& id = members_[0].id;
  const auto refusal = [&](const plan::ConnectRanks& connect) {
    agents_->Carry(core::SendConnect{id, connect});
    const auto failed = log_.Take<core::LoadFailed>();
    return failed.has_value() ? failed->status : absl::OkStatus();
  };
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, refusal({1, 7, {{0, "x"}, {1, "y"}}}).code()) << "nobody waits yet";
  const plan::ConnectRanks good = group.LoadUntilPublished(1, members_);
  ASSERT_EQ(2u, good.ranks.size());
  plan::ConnectRanks bad = good;
  bad.epoch = 2;
  EXPECT_EQ(absl::StatusCode::kAborted, refusal(bad).code());
  bad = good;
  bad.coordinator = 8;
  EXPECT_EQ(absl::StatusCode::kAborted, refusal(bad).code());
  bad = good;
  bad.ranks.pop_back();
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, refusal(bad).code());
  bad = good;
  std::swap(bad.ranks[0], bad.ranks[1]);
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, refusal(bad).code());
  agents_->Carry(core::SendConnect{id, good});
  ASSERT_TRUE(log_.Take<core::LoadAdvanced>([](const auto& e) { return e.progress.done; }).has_value());
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, refusal(good).code());
}

TEST_F(RendezvousTest, GarbageAddressesFailTheLoadWithTheReason) {
  StartAgent(2);
  TinyGroup group(&log_, agents_.get(), "null", "gloo");
  group.Join(1, 2, 1, members_);
  ASSERT_TRUE(log_.Take<core::JoinAnswered>().has_value());
  plan::ConnectRanks connect = group.LoadUntilPublished(1, members_);
  ASSERT_EQ(2u, connect.ranks.size());
  connect.ranks[0].bytes = std::string("\0\xff", 2);
  connect.ranks[1].bytes = "gloo1 1 1 1";
  agents_->Carry(core::SendConnect{members_[0].id, connect});
  const auto failed = log_.Take<core::LoadFailed>();
  ASSERT_TRUE(failed.has_value());
  EXPECT_EQ(absl::StatusCode::kAborted, failed->status.code());
  EXPECT_NE(std::string::npos, failed->status.message().find("malformed")) << failed->status;
  EXPECT_NE(std::string::npos, failed->status.message().find("exited with 1")) << failed->status;
}

// What would be the same the next time is not tried again and again.
TEST_F(RendezvousTest, RanksThatCannotBeWhatTheyAreToldFailTheLoadForGood) {
  StartAgent(2);
  TinyGroup group(&log_, agents_.get(), "null", "gloo");
  group.Join(1, 2, 1, members_);
  ASSERT_TRUE(log_.Take<core::JoinAnswered>().has_value());
  plan::ConnectRanks connect = group.LoadUntilPublished(1, members_);
  ASSERT_EQ(2u, connect.ranks.size());
  std::swap(connect.ranks[0].bytes, connect.ranks[1].bytes);
  agents_->Carry(core::SendConnect{members_[0].id, connect});
  const auto failed = log_.Take<core::LoadFailed>();
  ASSERT_TRUE(failed.has_value());
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, failed->status.code()) << failed->status;
  EXPECT_NE(std::string::npos, failed->status.message().find("is of another rank")) << failed->status;
}

TEST_F(RendezvousTest, AnAbortEndsRanksThatWaitForAddresses) {
  StartAgent(2);
  TinyGroup group(&log_, agents_.get(), "null", "gloo");
  group.Join(1, 2, 1, members_);
  ASSERT_TRUE(log_.Take<core::JoinAnswered>().has_value());
  ASSERT_EQ(2u, group.LoadUntilPublished(1, members_).ranks.size());
  EXPECT_EQ(2u, Children().size());
  agents_->Carry(core::SendAbort{members_[0].id, 2, "the test wants it"});
  group.Form(3, 2, 1, members_);
  EXPECT_EQ(3u, group.Generate(kPrompt, 3).size());
  EXPECT_EQ(2u, Children().size());
}

}  // namespace
}  // namespace shoal
