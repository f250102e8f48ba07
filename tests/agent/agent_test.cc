// Agents and coordinator/rpc together: registration, groups, steps, faults, ends.
#include "worker/agent/agent.h"

#include <gtest/gtest.h>

#include <csignal>

#include "absl/strings/str_cat.h"
#include "coordinator/rpc/agents.h"
#include "tests/agent/fixture.h"
#include "worker/device/memory.h"

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

class AgentTest : public ::testing::Test {
 protected:
  // The info that an agent registers with.
  plan::AgentInfo Registered() {
    auto event = log_.Take<core::AgentRegistered>();
    EXPECT_TRUE(event.has_value());
    return event.has_value() ? event->info : plan::AgentInfo{};
  }
  std::unique_ptr<AgentThread> StartAgent(int slots) {
    return std::make_unique<AgentThread>(OptionsFor(agents_->address(), slots));
  }

  EventLog log_;
  std::unique_ptr<rpc::Agents> agents_ = StartAgents(&log_);
};

TEST_F(AgentTest, RegistersWithWhatItHas) {
  const auto agent = StartAgent(3);
  const plan::AgentInfo info = Registered();
  ASSERT_EQ(3u, info.slots.size());
  EXPECT_EQ("cpu", info.slots[0].kind);
  EXPECT_EQ(1, info.slots[0].threads);
  EXPECT_EQ((int64_t{1} << 30) / 3, info.slots[0].memory_bytes);
  EXPECT_FALSE(info.boot_id.empty());
  EXPECT_FALSE(info.hostname.empty());
  EXPECT_EQ(0u, info.highest_epoch);
  const auto beat = log_.Take<core::HeartbeatReceived>([](const auto& e) { return e.heartbeat.sequence >= 3; });
  ASSERT_TRUE(beat.has_value());
  EXPECT_EQ(info.id, beat->heartbeat.agent);
  EXPECT_TRUE(agent->Stop().ok());
  EXPECT_TRUE(log_.Take<core::AgentLost>().has_value());
}

TEST_F(AgentTest, LoadsAndAnswersTheSameInEveryLayout) {
  const auto agent = StartAgent(4);
  const std::vector<plan::AgentInfo> members = {Registered()};
  TinyGroup group(&log_, agents_.get(), "ref");
  group.Form(1, 1, 1, members);
  const std::vector<int32_t> alone = group.Generate(kPrompt, 12);
  group.Form(2, 2, 2, members);
  EXPECT_EQ(alone, group.Generate(kPrompt, 12));
  EXPECT_EQ(12u, alone.size());
  ASSERT_EQ(1u, group.replies().size());
  EXPECT_EQ(4u, group.replies()[0].ranks.size());
  EXPECT_EQ("build-of-the-test/tp2xpp2/ref/f32/files-f32/kv-f32/b16", group.replies()[0].numerics_id);

  // Heartbeats show the ranks at the step they have finished, and what their transport carried.
  const auto beat = log_.Take<core::HeartbeatReceived>([](const auto& e) {
    return e.heartbeat.epoch == 2 && e.heartbeat.ranks.size() == 4 && e.heartbeat.ranks[0].step == 12;
  });
  ASSERT_TRUE(beat.has_value());
  const plan::RankStatus& first = beat->heartbeat.ranks[0];
  EXPECT_GT(first.resident_bytes, 0);
  EXPECT_GT(first.progress, 0u);
  ASSERT_EQ(5u, first.comm_bytes.size());
  EXPECT_EQ((std::pair<std::string, int64_t>("local", 0)), first.comm_bytes[0]);
  EXPECT_EQ("shm", first.comm_bytes[1].first);
  EXPECT_GT(first.comm_bytes[1].second, 0);
  EXPECT_EQ((std::pair<std::string, int64_t>("gloo", 0)), first.comm_bytes[2]);
  EXPECT_EQ((std::pair<std::string, int64_t>("nccl", 0)), first.comm_bytes[3]);
  EXPECT_EQ((std::pair<std::string, int64_t>("peer", 0)), first.comm_bytes[4]);
}

TEST_F(AgentTest, TwoAgentsOfOneHostShareAGroup) {
  const auto one = StartAgent(2), two = StartAgent(2);
  const std::vector<plan::AgentInfo> members = {Registered(), Registered()};
  TinyGroup group(&log_, agents_.get(), "null");
  group.Form(1, 1, 1, {members[0]});
  const std::vector<int32_t> alone = group.Generate(kPrompt, 8);
  const auto loads = group.Form(2, 2, 2, members);
  ASSERT_EQ(2u, loads.size());
  EXPECT_EQ(alone, group.Generate(kPrompt, 8));
  EXPECT_EQ(4u, Children().size());
  EXPECT_TRUE(one->Stop().ok());
  EXPECT_TRUE(two->Stop().ok());
  EXPECT_TRUE(Children().empty());
}

TEST_F(AgentTest, WeightsThatWereReadBeforeAreNotReadAgain) {
  const auto one = StartAgent(1);
  const plan::AgentInfo a = Registered();
  const auto two = StartAgent(1), three = StartAgent(1);
  const plan::AgentInfo b = Registered(), c = Registered();
  TinyGroup group(&log_, agents_.get(), "ref");
  group.Form(1, 2, 1, {a, b});
  const std::vector<int32_t> before = group.Generate(kPrompt, 8);
  // The third agent reads what the second has, while the group goes on.
  const auto preload = [&](uint64_t epoch, const std::vector<plan::AgentInfo>& agents, const std::string& to) {
    agents_->Carry(core::SendPreload{to, group.MakeJoin(epoch, 2, 1, agents)});
  };
  preload(1, {a, c}, c.id);
  const auto done = log_.Take<core::PreloadAdvanced>([](const auto& e) { return e.progress.done; });
  ASSERT_TRUE(done.has_value());
  EXPECT_EQ(c.id, done->progress.agent);
  EXPECT_GT(done->progress.bytes_read, 0);
  ASSERT_EQ(1u, done->reply.ranks.size());
  EXPECT_EQ(1, done->reply.ranks[0].rank);
  EXPECT_EQ(group.replies()[0].numerics_id, done->reply.numerics_id);
  EXPECT_EQ(before, group.Generate(kPrompt, 8));
  // One that runs a rank keeps it.
  preload(1, {a, b}, a.id);
  const auto again = log_.Take<core::PreloadAdvanced>([](const auto& e) { return e.progress.done; });
  ASSERT_TRUE(again.has_value());
  EXPECT_TRUE(again->progress.reused);
  EXPECT_EQ(before, group.Generate(kPrompt, 8));

  for (const plan::LoadProgress& load : group.Form(2, 2, 1, {a, c})) {
    EXPECT_TRUE(load.reused);
    EXPECT_EQ(0, load.bytes_read);
  }
  EXPECT_EQ(before, group.Generate(kPrompt, 8));
}

// Read for a group that did not come: the memory is back.
TEST_F(AgentTest, APreloadOfNothingLetsGoOfWeights) {
  const auto one = StartAgent(1);
  const plan::AgentInfo a = Registered();
  const auto two = StartAgent(1);
  const plan::AgentInfo b = Registered();
  TinyGroup group(&log_, agents_.get(), "ref");
  const auto preload = [&](const std::string& to, const std::vector<plan::AgentInfo>& agents) {
    agents_->Carry(core::SendPreload{to, group.MakeJoin(1, 1, 1, agents)});
    const auto done = log_.Take<core::PreloadAdvanced>([](const auto& e) { return e.progress.done; });
    EXPECT_TRUE(done.has_value());
    return done.value_or(core::PreloadAdvanced{});
  };
  EXPECT_GT(preload(b.id, {b}).progress.bytes_read, 0);
  EXPECT_TRUE(preload(b.id, {b}).progress.reused);
  const core::PreloadAdvanced nothing = preload(b.id, {a});
  EXPECT_EQ(b.id, nothing.progress.agent);
  EXPECT_TRUE(nothing.reply.ranks.empty());
  EXPECT_GT(preload(b.id, {b}).progress.bytes_read, 0) << "it had kept them";
}

// It says so to whichever coordinator it registers with.
TEST_F(AgentTest, RemembersThatItShallBeDrained) {
  const int port = FreePort();
  agents_.reset();
  agents_ = StartAgents(&log_, absl::StrCat("127.0.0.1:", port));
  const auto agent = StartAgent(1);
  const plan::AgentInfo info = Registered();
  EXPECT_EQ(plan::DrainState::kNone, info.drain);
  const auto heard = [&](plan::DrainState state) {
    return log_.Take<core::HeartbeatReceived>([&](const auto& e) { return e.heartbeat.drain == state; }).has_value();
  };
  agents_->Carry(core::SendDrain{info.id, 5, plan::DrainState::kDraining});
  EXPECT_TRUE(heard(plan::DrainState::kDraining));
  agents_->Carry(core::SendAbort{info.id, 6, "a later epoch"});
  ASSERT_TRUE(log_.Take<core::HeartbeatReceived>([](const auto& e) { return e.heartbeat.epoch == 6; }).has_value());
  agents_->Carry(core::SendDrain{info.id, 5, plan::DrainState::kDrained});
  ASSERT_TRUE(log_.Take<core::HeartbeatReceived>([](const auto& e) {
                    return e.heartbeat.stale[static_cast<size_t>(plan::StalePlace::kDrain)] == 1;
                  })
                  .has_value());
  agents_.reset();
  agents_ = StartAgents(&log_, absl::StrCat("127.0.0.1:", port), 8);
  EXPECT_EQ(plan::DrainState::kDraining, Registered().drain) << "what came late said nothing";
  agents_->Carry(core::SendDrain{info.id, 6, plan::DrainState::kDrained});
  EXPECT_TRUE(heard(plan::DrainState::kDrained));
  agents_->Carry(core::SendDrain{info.id, 6, plan::DrainState::kDraining});
  agents_.reset();
  agents_ = StartAgents(&log_, absl::StrCat("127.0.0.1:", port), 9);
  EXPECT_EQ(plan::DrainState::kDrained, Registered().drain) << "it does not go back";
}

TEST_F(AgentTest, APreloadThatCannotBeSaysWhy) {
  const auto agent = StartAgent(1);
  const plan::AgentInfo a = Registered();
  TinyGroup group(&log_, agents_.get(), "ref");
  plan::JoinGroup join = group.MakeJoin(1, 1, 1, {a});
  join.revision = "another";
  agents_->Carry(core::SendPreload{a.id, join});
  const auto failed = log_.Take<core::PreloadFailed>();
  ASSERT_TRUE(failed.has_value());
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, failed->status.code());
}

TEST_F(AgentTest, KilledRankIsReportedAndTheGroupFormsAgainWithoutReading) {
  const auto agent = StartAgent(2);
  const std::vector<plan::AgentInfo> members = {Registered()};
  TinyGroup group(&log_, agents_.get(), "ref");
  const auto first = group.Form(1, 2, 1, members);
  ASSERT_EQ(1u, first.size());
  EXPECT_FALSE(first[0].reused);
  EXPECT_GT(first[0].bytes_read, 0);
  EXPECT_EQ(first[0].bytes_total, first[0].bytes_done);
  EXPECT_GT(group.replies()[0].ranks[0].read_bytes, 0);
  const std::vector<int32_t> before = group.Generate(kPrompt, 6);

  const auto beat = log_.Take<core::HeartbeatReceived>(
      [](const auto& e) { return e.heartbeat.ranks.size() == 2 && e.heartbeat.ranks[1].pid > 0; });
  ASSERT_TRUE(beat.has_value());
  const int victim = beat->heartbeat.ranks[1].pid;
  ASSERT_EQ(0, ::kill(victim, SIGKILL));
  const auto exit = log_.Take<core::RankExited>();
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(1, exit->exit.rank);
  EXPECT_EQ(victim, exit->exit.pid);
  EXPECT_EQ(1u, exit->exit.epoch);
  EXPECT_EQ("killed by signal 9", exit->exit.cause);

  const auto again = group.Form(2, 2, 1, members);
  ASSERT_EQ(1u, again.size());
  EXPECT_TRUE(again[0].reused);
  EXPECT_EQ(0, again[0].bytes_read);
  EXPECT_EQ(0, group.replies()[0].ranks[0].read_bytes);
  EXPECT_EQ(before, group.Generate(kPrompt, 6));
  EXPECT_EQ(0, log_.Count<core::AgentLost>());
}

TEST_F(AgentTest, StoppedRankIsReportedAndReplaced) {
  const auto agent = StartAgent(1);
  const std::vector<plan::AgentInfo> members = {Registered()};
  TinyGroup group(&log_, agents_.get(), "null");
  group.Form(1, 1, 1, members);
  const std::vector<int> ranks = Children();
  ASSERT_EQ(1u, ranks.size());
  ASSERT_EQ(0, ::kill(ranks[0], SIGSTOP));
  const auto exit = log_.Take<core::RankExited>();
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ("stopped by signal 19", exit->exit.cause);
  group.Form(2, 1, 1, members);
  EXPECT_EQ(4u, group.Generate(kPrompt, 4).size());
  ASSERT_EQ(1u, Children().size());
  EXPECT_NE(ranks[0], Children()[0]);
}

TEST_F(AgentTest, AnotherLayoutDropsTheWeights) {
  const auto agent = StartAgent(2);
  const std::vector<plan::AgentInfo> members = {Registered()};
  TinyGroup group(&log_, agents_.get(), "null");
  group.Form(1, 2, 1, members);
  const auto loads = group.Form(2, 1, 2, members);
  ASSERT_EQ(1u, loads.size());
  EXPECT_FALSE(loads[0].reused);
}

TEST_F(AgentTest, AbortEndsTheRanksAndKeepsTheWeights) {
  const auto agent = StartAgent(2);
  const std::vector<plan::AgentInfo> members = {Registered()};
  TinyGroup group(&log_, agents_.get(), "null");
  group.Form(1, 2, 1, members);
  EXPECT_EQ(2u, Children().size());
  agents_->Carry(core::SendAbort{members[0].id, 2, "the test wants it"});
  ASSERT_TRUE(log_.Take<core::HeartbeatReceived>(
                      [](const auto& e) { return e.heartbeat.epoch == 2 && e.heartbeat.ranks.empty(); })
                  .has_value());
  EXPECT_TRUE(Children().empty());
  const auto loads = group.Form(2, 2, 1, members);
  ASSERT_EQ(1u, loads.size());
  EXPECT_TRUE(loads[0].reused);
  EXPECT_EQ(0, log_.Count<core::RankExited>());  // they were told to end
  EXPECT_EQ(0, log_.Count<core::AgentLost>());
}

TEST_F(AgentTest, LowerEpochIsRefused) {
  const auto agent = StartAgent(1);
  const std::vector<plan::AgentInfo> members = {Registered()};
  TinyGroup group(&log_, agents_.get(), "null");
  group.Form(5, 1, 1, members);
  EXPECT_EQ(2u, group.Generate(kPrompt, 2).size());
  agents_->Carry(core::SendJoin{members[0].id, group.MakeJoin(5, 1, 1, members)});
  const auto refused = log_.Take<core::JoinAnswered>();
  ASSERT_TRUE(refused.has_value());
  EXPECT_EQ(absl::StatusCode::kAborted, refused->reply.status().code());
  EXPECT_EQ(3u, group.Generate(kPrompt, 3).size());  // the group has not been touched
  // Neither by an older abort, nor by a plan of another coordinator. All are counted.
  agents_->Carry(core::SendAbort{members[0].id, 4, "late"});
  agents_->Carry(core::SendPlan{{members[0].id}, {5, 8, 100}, "foreign"});
  const auto count = [](const core::HeartbeatReceived& e, plan::StalePlace place) {
    return e.heartbeat.stale[static_cast<size_t>(place)];
  };
  EXPECT_TRUE(log_.Take<core::HeartbeatReceived>([&](const auto& e) {
                    return count(e, plan::StalePlace::kJoin) == 1 && count(e, plan::StalePlace::kAbort) == 1 &&
                           count(e, plan::StalePlace::kPlan) == 1;
                  })
                  .has_value());
  EXPECT_EQ(2u, group.Generate(kPrompt, 2).size());
}

TEST_F(AgentTest, BadJoinsAreRefusedWithTheReason) {
  const auto agent = StartAgent(1);
  const std::vector<plan::AgentInfo> members = {Registered()};
  TinyGroup group(&log_, agents_.get(), "null");
  uint64_t epoch = 1;
  const auto answer = [&](const std::function<void(plan::JoinGroup&)>& spoil) {
    plan::JoinGroup join = group.MakeJoin(epoch, 1, 1, members);
    spoil(join);
    agents_->Carry(core::SendJoin{members[0].id, join});
    auto answered = log_.Take<core::JoinAnswered>([&](const auto& e) { return e.epoch == epoch; });
    ++epoch;
    return answered.has_value() ? answered->reply.status() : absl::OkStatus();
  };
  const auto holds = [](const absl::Status& s, const char* what) {
    return s.message().find(what) != std::string::npos;
  };

  absl::Status s = answer([](auto& j) { j.model += ".not"; });
  EXPECT_EQ(absl::StatusCode::kNotFound, s.code()) << s;
  s = answer([](auto& j) { j.revision = "other"; });
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, s.code());
  EXPECT_TRUE(holds(s, "revision other")) << s;
  s = answer([](auto& j) { ++j.shard_hash; });
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, s.code()) << s;
  s = answer([](auto& j) { j.ranks[0].slot = 1; });
  EXPECT_TRUE(holds(s, "slot 1")) << s;
  s = answer([](auto& j) { j.ranks[0].agent = "other"; });
  EXPECT_TRUE(holds(s, "no rank of the group is assigned")) << s;
  s = answer([](auto& j) { j.engine.device = "abacus"; });
  EXPECT_EQ(absl::StatusCode::kNotFound, s.code()) << s;
  s = answer([](auto& j) { j.engine.kv_dtype = "q8_0"; });
  EXPECT_TRUE(holds(s, "q8_0")) << s;
  s = answer([](auto& j) { j.engine.load_format = "magic"; });
  EXPECT_TRUE(holds(s, "magic")) << s;
  s = answer([](auto& j) { j.engine.quantization = "int3"; });
  EXPECT_TRUE(holds(s, "int3")) << s;
  s = answer([](auto& j) { j.limits.vocab = 1 << 30; });
  EXPECT_TRUE(holds(s, "vocab is 1073741824")) << s;
  s = answer([](auto& j) { j.engine.transport = "carrier"; });
  EXPECT_TRUE(holds(s, "carrier")) << s;
  s = answer([](auto& j) { j.engine.all_reduce = "abacus"; });
  EXPECT_TRUE(holds(s, "abacus")) << s;
  s = answer([](auto& j) {
    j.engine.all_reduce = "one-shot", j.tp = 2;
    j.ranks.push_back(j.ranks[0]);
    j.ranks[1].rank = 1, j.ranks[1].agent = "other";
  });
  EXPECT_TRUE(holds(s, "one-shot is for ranks on CUDA")) << s;
  group.Form(epoch, 1, 1, members);
  EXPECT_EQ(2u, group.Generate(kPrompt, 2).size());
}

TEST_F(AgentTest, RankThatCannotStartFailsTheLoadWithItsCause) {
  agent::AgentOptions options = OptionsFor(agents_->address(), 1);
  options.rank_binary = "/bin/ls";  // "ls rank --reader 0" says that there is no such file
  AgentThread agent(options);
  const std::vector<plan::AgentInfo> members = {Registered()};
  TinyGroup group(&log_, agents_.get(), "null");
  group.Join(1, 1, 1, members);
  ASSERT_TRUE(log_.Take<core::JoinAnswered>().has_value());
  agents_->Carry(core::SendLoad{members[0].id, {1, group.limits()}});
  const auto failed = log_.Take<core::LoadFailed>();
  ASSERT_TRUE(failed.has_value());
  EXPECT_EQ(1u, failed->epoch);
  EXPECT_EQ(absl::StatusCode::kAborted, failed->status.code()) << "which may pass";
  EXPECT_EQ(0u, failed->status.message().find("rank 0 exited with 2: ")) << failed->status;

  // The group has memory and processes of the attempt: it can only be ended.
  agents_->Carry(core::SendLoad{members[0].id, {1, group.limits()}});
  const auto again = log_.Take<core::LoadFailed>();
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, again->status.code()) << again->status;
}

TEST_F(AgentTest, LimitsOtherThanTheJoinsAreRefused) {
  const auto agent = StartAgent(1);
  const std::vector<plan::AgentInfo> members = {Registered()};
  TinyGroup group(&log_, agents_.get(), "null");
  uint64_t epoch = 0;
  const auto answer = [&](const std::function<void(plan::MirrorLimits&)>& spoil) {
    ++epoch;
    group.Join(epoch, 1, 1, members);
    EXPECT_TRUE(log_.Take<core::JoinAnswered>().has_value());
    plan::MirrorLimits limits = group.limits();
    spoil(limits);
    agents_->Carry(core::SendLoad{members[0].id, {epoch, limits}});
    const auto failed = log_.Take<core::LoadFailed>([&](const auto& e) { return e.epoch == epoch; });
    return failed.has_value() ? failed->status.code() : absl::StatusCode::kOk;
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(kInvalid, answer([](auto& l) { l.blocks = 1 << 25; }));
  EXPECT_EQ(kInvalid, answer([](auto& l) { l.blocks = 0; }));
  EXPECT_EQ(kInvalid, answer([](auto& l) { ++l.vocab; }));
  EXPECT_EQ(kInvalid, answer([](auto& l) { --l.vocab; }));
  EXPECT_EQ(kInvalid, answer([](auto& l) { l.block_size = 32; }));
  EXPECT_EQ(kInvalid, answer([](auto& l) { ++l.max_tokens; }));
  EXPECT_EQ(kInvalid, answer([](auto& l) { ++l.max_sequences; }));
  EXPECT_EQ(kInvalid, answer([](auto& l) { ++l.max_model_len; }));
  ++epoch;
  group.Join(epoch, 1, 1, members);
  ASSERT_TRUE(log_.Take<core::JoinAnswered>().has_value());
  plan::MirrorLimits shorter = group.limits();
  shorter.max_model_len /= 2;
  agents_->Carry(core::SendLoad{members[0].id, {epoch, shorter}});
  EXPECT_TRUE(log_.Take<core::LoadAdvanced>([&](const auto& e) { return e.progress.done; }).has_value());
  EXPECT_EQ(0, log_.Count<core::AgentLost>());
}

// Rank 0 was another agent's, which made the segment and was killed before this one had opened it.
TEST_F(AgentTest, ChannelsOfAKilledAgentAreRemoved) {
  const auto agent = StartAgent(1);
  const plan::AgentInfo info = Registered();
  plan::AgentInfo killed = info;
  killed.id = "killed";
  TinyGroup group(&log_, agents_.get(), "null");
  plan::JoinGroup join = group.MakeJoin(1, 2, 1, {killed, info});
  const std::string name = absl::StrCat("shoal-", join.comm_token);
  ASSERT_TRUE(device::SharedMemory::CreateNamed(name, 4096).ok());
  agents_->Carry(core::SendJoin{info.id, join});
  const auto joined = log_.Take<core::JoinAnswered>();
  ASSERT_TRUE(joined.has_value() && joined->reply.ok());
  EXPECT_TRUE(device::SharedMemory::OpenNamed(name).ok());
  agents_->Carry(core::SendAbort{info.id, 2, "an agent was lost"});
  group.Form(2, 1, 1, {info});  // carried out after the abort
  EXPECT_EQ(absl::StatusCode::kNotFound, device::SharedMemory::OpenNamed(name).status().code());
}

TEST_F(AgentTest, RankThatDoesNotTakeItsPlansEndsTheStepStream) {
  const auto agent = StartAgent(1);
  const std::vector<plan::AgentInfo> members = {Registered()};
  TinyGroup group(&log_, agents_.get(), "null");
  group.Form(1, 1, 1, members);
  EXPECT_EQ(1u, group.Generate(kPrompt, 1).size());
  const std::vector<int> ranks = Children();
  ASSERT_EQ(1u, ranks.size());
  ASSERT_EQ(0, ::kill(ranks[0], SIGSTOP));
  ASSERT_TRUE(log_.Take<core::RankExited>().has_value());  // it has stopped
  // More than its ring can hold; nobody looks into them.
  const std::string plan(4 << 20, 'x');
  for (uint64_t step = 2; step <= 6; ++step) {
    agents_->Carry(core::SendPlan{{members[0].id}, {1, 7, step}, plan});
  }
  const auto lost = log_.Take<core::AgentLost>();
  ASSERT_TRUE(lost.has_value());
  EXPECT_NE(std::string::npos, lost->reason.find("no room")) << lost->reason;
}

TEST_F(AgentTest, MissingRankBinaryFailsTheLoad) {
  agent::AgentOptions options = OptionsFor(agents_->address(), 1);
  options.rank_binary = "/no/such/binary";
  AgentThread agent(options);
  const std::vector<plan::AgentInfo> members = {Registered()};
  TinyGroup group(&log_, agents_.get(), "null");
  group.Join(1, 1, 1, members);
  ASSERT_TRUE(log_.Take<core::JoinAnswered>().has_value());
  agents_->Carry(core::SendLoad{members[0].id, {1, group.limits()}});
  const auto failed = log_.Take<core::LoadFailed>();
  ASSERT_TRUE(failed.has_value());
  EXPECT_NE(std::string::npos, failed->status.message().find("/no/such/binary")) << failed->status;
}

TEST_F(AgentTest, AnotherBuildIsRefusedForGood) {
  agent::AgentOptions options = OptionsFor(agents_->address(), 1);
  options.build_id = "newer";
  AgentThread agent(options);
  const absl::Status status = agent.Join();
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, status.code());
  EXPECT_NE(std::string::npos, status.message().find("newer")) << status;
  EXPECT_NE(std::string::npos, status.message().find("build-of-the-test")) << status;
  EXPECT_EQ(0, log_.Count<core::AgentRegistered>());
}

TEST_F(AgentTest, AgentWaitsForACoordinatorThatComesLater) {
  const std::string address = absl::StrCat("127.0.0.1:", FreePort());
  AgentThread agent(OptionsFor(address, 1));
  EventLog log;
  const auto late = StartAgents(&log, address);
  EXPECT_TRUE(log.Take<core::AgentRegistered>().has_value());
}

TEST_F(AgentTest, OutlivesTheCoordinatorWithItsWeights) {
  const std::string address = absl::StrCat("127.0.0.1:", FreePort());
  EventLog log;
  auto first = StartAgents(&log, address);
  AgentThread agent(OptionsFor(address, 2));
  const auto registered = log.Take<core::AgentRegistered>();
  ASSERT_TRUE(registered.has_value());
  {
    TinyGroup group(&log, first.get(), "null");
    group.Form(3, 2, 1, {registered->info});
    first.reset();
    EventLog second_log;
    const auto second = StartAgents(&second_log, address, 8);
    const auto again = second_log.Take<core::AgentRegistered>();
    ASSERT_TRUE(again.has_value());
    EXPECT_EQ(registered->info.id, again->info.id);
    EXPECT_EQ(3u, again->info.highest_epoch);
    EXPECT_EQ((std::vector<int32_t>{0, 1}), again->info.held_ranks);
    EXPECT_NE(std::string::npos, again->info.held_model.find(group.files().revision));
    // The ranks of the lost coordinator end.
    ASSERT_TRUE(
        second_log.Take<core::HeartbeatReceived>([](const auto& e) { return e.heartbeat.ranks.empty(); }).has_value());
    EXPECT_TRUE(Children().empty());
  }
  EXPECT_TRUE(agent.Stop().ok());
}

TEST_F(AgentTest, OrphanTimeOutEndsIt) {
  agent::AgentOptions options = OptionsFor(absl::StrCat("127.0.0.1:", FreePort()), 1);
  options.orphan_timeout = 50 * kMillisecond;
  AgentThread agent(options);
  const absl::Status status = agent.Join();
  EXPECT_EQ(absl::StatusCode::kUnavailable, status.code()) << status;
}

TEST_F(AgentTest, OffLoopbackNeedsInsecure) {
  const std::atomic<bool> stop{true};
  agent::AgentOptions options = OptionsFor("10.0.0.1:1", 1);
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, agent::RunAgent(options, stop).code());
  options.coordinator = agents_->address();
  options.listen = "0.0.0.0:0";
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, agent::RunAgent(options, stop).code());
  options.insecure = true;
  EXPECT_TRUE(agent::RunAgent(options, stop).ok());
  options.listen = "nonsense";
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, agent::RunAgent(options, stop).code());
}

TEST_F(AgentTest, ListeningOnAllAddressesAdvertisesOneThatWorks) {
  agent::AgentOptions options = OptionsFor(agents_->address(), 1);
  options.listen = "0.0.0.0:0";
  options.insecure = true;
  AgentThread agent(options);
  const plan::AgentInfo info = Registered();
  EXPECT_EQ(0u, info.address.find("127.0.0.1:")) << info.address;
  TinyGroup group(&log_, agents_.get(), "null");
  group.Form(1, 1, 1, {info});
  EXPECT_EQ(1u, group.Generate(kPrompt, 1).size());
}

TEST_F(AgentTest, WhatCannotBeAdvertisedIsRefused) {
  const std::atomic<bool> stop{true};
  agent::AgentOptions options = OptionsFor(agents_->address(), 1);
  const auto refused = [&](const std::string& address) {
    options.advertise = address;
    const absl::Status status = agent::RunAgent(options, stop);
    return absl::IsInvalidArgument(status) ? std::string(status.message()) : status.ToString();
  };
  EXPECT_NE(std::string::npos, refused("10.0.0.1:80").find("--insecure"));
  options.insecure = true;
  EXPECT_NE(std::string::npos, refused("worker-3").find("not of the form host:port"));
  for (const char* port : {"0", "65536", "-1", "http"}) {
    EXPECT_NE(std::string::npos, refused(absl::StrCat("worker-3:", port)).find("needs a port")) << port;
  }
  EXPECT_NE(std::string::npos, refused("0.0.0.0:80").find("all addresses"));
  EXPECT_NE(std::string::npos, refused("[::]:80").find("all addresses"));
  EXPECT_EQ("OK", refused("worker-3.ns:80"));
}

TEST_F(AgentTest, PortInUseIsSaid) {
  const std::atomic<bool> stop{true};
  agent::AgentOptions options = OptionsFor(agents_->address(), 1);
  options.listen = agents_->address();
  const absl::Status status = agent::RunAgent(options, stop);
  EXPECT_EQ(absl::StatusCode::kUnavailable, status.code());
  EXPECT_NE(std::string::npos, status.message().find("in use")) << status;
}

TEST_F(AgentTest, StopDuringALoadLeavesNothingBehind) {
  const auto agent = StartAgent(4);
  const std::vector<plan::AgentInfo> members = {Registered()};
  ASSERT_TRUE(log_.Take<core::HeartbeatReceived>().has_value());  // its stream stands, so its end will be noticed
  TinyGroup group(&log_, agents_.get(), "null");
  group.Join(1, 2, 2, members);
  ASSERT_TRUE(log_.Take<core::JoinAnswered>().has_value());
  agents_->Carry(core::SendLoad{members[0].id, {1, group.limits()}});
  EXPECT_TRUE(agent->Stop().ok());
  EXPECT_TRUE(Children().empty());
  EXPECT_TRUE(log_.Take<core::AgentLost>().has_value());
}

}  // namespace
}  // namespace shoal
