// The coordinator's gRPC side against agents that the test plays, so that they can misbehave.
#include "coordinator/rpc/agents.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/server_context.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "cluster.grpc.pb.h"
#include "common/plan/wire.h"
#include "common/plan/wire_grpc.h"
#include "coordinator/rpc/agent_link.h"
#include "tests/agent/fixture.h"
#include "worker.grpc.pb.h"

namespace shoal {
namespace {

using testing::EventLog;
using testing::StartAgents;

// An agent's endpoint that does as the test says. One call of each kind at a time.
class FakeWorker final : public proto::Worker::Service {
 public:
  FakeWorker() {
    grpc::ServerBuilder builder;
    plan::ConfigureServer("127.0.0.1:0", builder, &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeWorker() override {
    Release();
    server_->Shutdown(std::chrono::system_clock::now());
  }

  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  // Lets calls that wait go on.
  void Release() {
    MutexLock lock(mutex_);
    released_ = true;
    changed_.NotifyAll();
  }
  // Closes all connections at once, as the death of the process would.
  void Die() { server_->Shutdown(std::chrono::system_clock::now()); }

  // Waits for the plan with this step.
  bool SawStep(uint64_t step) {
    MutexLock lock(mutex_);
    while (steps_.empty() || steps_.back() < step) {
      if (!changed_.WaitFor(mutex_, testing::kPatience)) return false;
    }
    return true;
  }
  std::vector<uint64_t> steps() {
    MutexLock lock(mutex_);
    return steps_;
  }
  // Waits for an abort; 0 when none comes.
  uint64_t FirstAbort() {
    MutexLock lock(mutex_);
    while (aborts_.empty()) {
      if (!changed_.WaitFor(mutex_, testing::kPatience)) return 0;
    }
    return aborts_.front();
  }

  // Waits for addresses; how many there were.
  int SawAddresses() {
    MutexLock lock(mutex_);
    while (addresses_ == 0) {
      if (!changed_.WaitFor(mutex_, testing::kPatience)) return 0;
    }
    return addresses_;
  }

  grpc::Status join_status = grpc::Status::OK;
  grpc::Status connect_status = grpc::Status::OK;
  bool hold_join = false;
  std::vector<proto::LoadModelProgress> load_messages;
  std::vector<proto::PreloadProgress> preload_messages;
  grpc::Status load_status = grpc::Status::OK;
  std::vector<proto::ExecuteReply> greetings;  // sent when a step stream opens
  bool end_execute_after_greetings = false;

 private:
  grpc::Status JoinGroup(grpc::ServerContext*, const proto::JoinGroupRequest* request,
                         proto::JoinGroupReply* reply) override {
    reply->set_numerics_id(absl::StrCat("epoch ", request->epoch()));
    if (hold_join) WaitReleased();
    return join_status;
  }
  grpc::Status LoadModel(grpc::ServerContext*, const proto::LoadModelRequest*,
                         grpc::ServerWriter<proto::LoadModelProgress>* writer) override {
    for (const auto& message : load_messages) writer->Write(message);
    return load_status;
  }
  grpc::Status ConnectRanks(grpc::ServerContext*, const proto::ConnectRanksRequest* request,
                            proto::ConnectRanksReply*) override {
    MutexLock lock(mutex_);
    addresses_ = request->addresses_size();
    changed_.NotifyAll();
    return connect_status;
  }
  grpc::Status Preload(grpc::ServerContext*, const proto::JoinGroupRequest*,
                       grpc::ServerWriter<proto::PreloadProgress>* writer) override {
    for (const auto& message : preload_messages) writer->Write(message);
    if (hold_join) WaitReleased();
    return load_status;
  }
  grpc::Status Execute(grpc::ServerContext*,
                       grpc::ServerReaderWriter<proto::ExecuteReply, proto::ExecuteRequest>* stream) override {
    proto::ExecuteRequest request;
    if (!stream->Read(&request) || !request.has_open()) return grpc::Status(grpc::StatusCode::INTERNAL, "no open");
    for (const auto& reply : greetings) stream->Write(reply);
    if (end_execute_after_greetings) return grpc::Status::OK;
    while (stream->Read(&request)) {
      MutexLock lock(mutex_);
      steps_.push_back(request.plan().stamp().step());
      bytes_ += request.plan().plan().size();
      changed_.NotifyAll();
    }
    return grpc::Status::OK;
  }
  grpc::Status Abort(grpc::ServerContext*, const proto::AbortRequest* request, proto::AbortReply*) override {
    MutexLock lock(mutex_);
    aborts_.push_back(request->epoch());
    changed_.NotifyAll();
    return grpc::Status::OK;
  }
  void WaitReleased() {
    MutexLock lock(mutex_);
    while (!released_) changed_.Wait(mutex_);
  }

  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  Mutex mutex_;
  CondVar changed_;
  bool released_ SHOAL_GUARDED_BY(mutex_) = false;
  std::vector<uint64_t> steps_ SHOAL_GUARDED_BY(mutex_), aborts_ SHOAL_GUARDED_BY(mutex_);
  size_t bytes_ SHOAL_GUARDED_BY(mutex_) = 0;
  int addresses_ SHOAL_GUARDED_BY(mutex_) = 0;
};

class AgentsTest : public ::testing::Test {
 protected:
  AgentsTest() : stub_(proto::Cluster::NewStub(plan::Connect(agents_->address()))) {}

  proto::AgentInfo Info(const std::string& id = "a", uint64_t incarnation = 1) const {
    proto::AgentInfo info;
    info.set_id(id);
    info.set_incarnation(incarnation);
    info.set_address(worker_.address());
    info.set_hostname("host");
    info.set_build_id("build-of-the-test");
    return info;
  }
  grpc::Status Register(const proto::AgentInfo& info, proto::RegisterReply* reply = nullptr) {
    grpc::ClientContext context;
    proto::RegisterRequest request;
    *request.mutable_agent() = info;
    proto::RegisterReply ignored;
    return stub_->Register(&context, request, reply != nullptr ? reply : &ignored);
  }

  // A heartbeat stream of the test's own.
  struct Beats {
    explicit Beats(proto::Cluster::Stub& stub) : writer(stub.Heartbeats(&context, &reply)) {}
    bool Send(const std::string& id, uint64_t incarnation, uint64_t sequence) {
      proto::Heartbeat beat;
      beat.set_agent(id);
      beat.set_incarnation(incarnation);
      beat.set_sequence(sequence);
      return writer->Write(beat);
    }
    grpc::ClientContext context;
    proto::HeartbeatsReply reply;
    std::unique_ptr<grpc::ClientWriter<proto::Heartbeat>> writer;
  };

  plan::LoadModel LoadOf(uint64_t epoch) const { return {epoch, {8, 16, 4, 64, 128, 288}}; }
  plan::JoinGroup JoinOf(uint64_t epoch) const {
    plan::JoinGroup join;
    join.epoch = epoch;
    join.ranks.push_back({0, "a", 0});
    return join;
  }

  EventLog log_;
  FakeWorker worker_;
  uint64_t Stale(plan::StalePlace place) const { return stale_->Total()[static_cast<size_t>(place)]; }
  const std::shared_ptr<rpc::StaleTally> stale_ = std::make_shared<rpc::StaleTally>();
  std::unique_ptr<rpc::Agents> agents_ = StartAgents(&log_, "127.0.0.1:0", 7, stale_);
  std::unique_ptr<proto::Cluster::Stub> stub_;
};

proto::LoadModelProgress DoneMessage() {
  proto::LoadModelProgress done;
  done.set_agent("a");
  done.set_done(true);
  return done;
}

plan::StepResult ResultOf(const plan::Stamp& stamp) {
  plan::StepResult result;
  result.stamp = stamp;
  result.rank = 3;
  return result;
}

TEST_F(AgentsTest, AddressesReachTheAgentAndItsRefusalFailsTheLoad) {
  ASSERT_TRUE(Register(Info()).ok());
  const core::SendConnect connect{"a", {3, 7, {{0, "x"}, {1, "y"}}}};
  agents_->Carry(connect);
  EXPECT_EQ(2, worker_.SawAddresses());
  EXPECT_EQ(0, log_.Count<core::LoadFailed>());
  worker_.connect_status = grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "nobody waits");
  agents_->Carry(connect);
  const auto failed = log_.Take<core::LoadFailed>();
  ASSERT_TRUE(failed.has_value());
  EXPECT_EQ("a", failed->agent);
  EXPECT_EQ(3u, failed->epoch);
  EXPECT_EQ(absl::StatusCode::kFailedPrecondition, failed->status.code());
  // Once a newer epoch has begun, it says nothing.
  agents_->Carry(core::SendAbort{"a", 4, "the test wants it"});
  agents_->Carry(connect);
  EXPECT_EQ(4u, worker_.FirstAbort());
  EXPECT_EQ(0, log_.Count<core::LoadFailed>());
  EXPECT_EQ(0, log_.Count<core::AgentLost>());
}

TEST_F(AgentsTest, RegistrationTellsIncarnationAndInterval) {
  proto::RegisterReply reply;
  ASSERT_TRUE(Register(Info(), &reply).ok());
  EXPECT_EQ(7u, reply.coordinator_incarnation());
  EXPECT_EQ(50 * kMillisecond, reply.heartbeat_interval_ns());
  const auto event = log_.Take<core::AgentRegistered>();
  ASSERT_TRUE(event.has_value());
  EXPECT_EQ("host", event->info.hostname);
}

TEST_F(AgentsTest, OtherBuildsAndNamelessAgentsAreRefused) {
  proto::AgentInfo info = Info();
  info.set_build_id("older");
  const grpc::Status refused = Register(info);
  EXPECT_EQ(grpc::StatusCode::FAILED_PRECONDITION, refused.error_code());
  EXPECT_NE(std::string::npos, refused.error_message().find("older"));
  EXPECT_NE(std::string::npos, refused.error_message().find("build-of-the-test"));
  EXPECT_EQ(grpc::StatusCode::INVALID_ARGUMENT, Register(Info("")).error_code());
  EXPECT_EQ(0, log_.Count<core::AgentRegistered>());
}

TEST_F(AgentsTest, HeartbeatsNeedARegistrationOfThisIncarnation) {
  Beats strange(*stub_);
  strange.Send("a", 1, 1);
  EXPECT_EQ(grpc::StatusCode::NOT_FOUND, strange.writer->Finish().error_code());
  ASSERT_TRUE(Register(Info()).ok());
  Beats older(*stub_);
  older.Send("a", 0, 1);
  EXPECT_EQ(grpc::StatusCode::NOT_FOUND, older.writer->Finish().error_code());
  EXPECT_EQ(0, log_.Count<core::AgentLost>());
  EXPECT_EQ(2u, Stale(plan::StalePlace::kHeartbeat));
  Beats right(*stub_);
  EXPECT_TRUE(right.Send("a", 1, 1));
  EXPECT_TRUE(log_.Take<core::HeartbeatReceived>().has_value());
}

TEST_F(AgentsTest, WhatAgentsHaveRefusedIsAddedUpOnce) {
  ASSERT_TRUE(Register(Info()).ok());
  Beats beats(*stub_);
  proto::Heartbeat beat;
  beat.set_agent("a");
  beat.set_incarnation(1);
  proto::StaleCount* joins = beat.add_stale();
  joins->set_place(static_cast<int>(plan::StalePlace::kJoin));
  for (const uint64_t count : {2, 5, 4, 5}) {  // 4: of an older message
    joins->set_count(count);
    EXPECT_TRUE(beats.writer->Write(beat));
    ASSERT_TRUE(log_.Take<core::HeartbeatReceived>().has_value());
  }
  EXPECT_EQ(5u, Stale(plan::StalePlace::kJoin));
  stale_->Hear("b", {3});
  stale_->Count(plan::StalePlace::kJoin);
  EXPECT_EQ(9u, Stale(plan::StalePlace::kJoin));
  EXPECT_EQ(0u, Stale(plan::StalePlace::kHeartbeat));
}

TEST_F(AgentsTest, MessagesOfAnEpochThatIsOverAreRefusedAndCounted) {
  rpc::Pending pending;
  const rpc::AgentLink::Post post = [](core::Event) {};
  plan::AgentInfo info;
  info.address = worker_.address();
  const auto link = std::make_shared<rpc::AgentLink>(info, 7, &post, &pending, stale_);
  EXPECT_FALSE(link->Refuses(3, plan::StalePlace::kReply));
  link->Abort({"a", 4, "over"});
  EXPECT_EQ(4u, worker_.FirstAbort());
  EXPECT_TRUE(link->Refuses(3, plan::StalePlace::kReply));
  EXPECT_FALSE(link->Refuses(4, plan::StalePlace::kReply));
  EXPECT_EQ(1u, Stale(plan::StalePlace::kReply));
  link->Close();
  pending.WaitForNone();
}

TEST_F(AgentsTest, EndOfTheHeartbeatStreamIsTheLossOfTheAgentOnce) {
  ASSERT_TRUE(Register(Info()).ok());
  Beats beats(*stub_);
  for (uint64_t i = 1; i <= 3; ++i) EXPECT_TRUE(beats.Send("a", 1, i));
  for (uint64_t i = 1; i <= 3; ++i) {
    const auto beat = log_.Take<core::HeartbeatReceived>();
    ASSERT_TRUE(beat.has_value());
    EXPECT_EQ(i, beat->heartbeat.sequence);
  }
  beats.context.TryCancel();
  const auto lost = log_.Take<core::AgentLost>();
  ASSERT_TRUE(lost.has_value());
  EXPECT_EQ("a", lost->agent);
  // What is sent to it now goes nowhere, and nothing more is said of it.
  agents_->Carry(core::SendJoin{"a", JoinOf(1)});
  ASSERT_TRUE(Register(Info("b")).ok());
  EXPECT_EQ(0, log_.Count<core::AgentLost>());
  EXPECT_EQ(0, log_.Count<core::JoinAnswered>());
}

TEST_F(AgentsTest, RegisteringAgainLosesTheFormerRegistrationFirst) {
  ASSERT_TRUE(Register(Info()).ok());
  Beats former(*stub_);
  EXPECT_TRUE(former.Send("a", 1, 1));
  ASSERT_TRUE(log_.Take<core::HeartbeatReceived>().has_value());
  ASSERT_TRUE(log_.Take<core::AgentRegistered>().has_value());
  ASSERT_TRUE(Register(Info("a", 2)).ok());
  ASSERT_TRUE(log_.Take<core::AgentLost>().has_value());
  ASSERT_TRUE(log_.Take<core::AgentRegistered>().has_value());
  EXPECT_EQ(grpc::StatusCode::ABORTED, former.writer->Finish().error_code());  // so that its owner registers again
  EXPECT_EQ(0, log_.Count<core::AgentLost>());
}

TEST(AgentsRegister, OverlappingRegistrationsOfOneAgentAreAnnouncedOneAfterTheOther) {
  Mutex mutex;
  std::string said;  // r: registered, l: lost
  rpc::AgentsOptions options;
  options.build_id = "build-of-the-test";
  auto agents = rpc::Agents::Start(options, [&](core::Event event) {
    const bool lost = std::holds_alternative<core::AgentLost>(event);
    if (lost) std::this_thread::yield();  // lets another registration come between
    MutexLock lock(mutex);
    said += lost ? 'l' : 'r';
  });
  ASSERT_TRUE(agents.ok());
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&] {
      const auto stub = proto::Cluster::NewStub(plan::Connect((*agents)->address()));
      for (int i = 0; i < 60; ++i) {
        grpc::ClientContext context;
        proto::RegisterRequest request;
        proto::RegisterReply reply;
        request.mutable_agent()->set_id("a");
        request.mutable_agent()->set_address("127.0.0.1:1");
        request.mutable_agent()->set_build_id("build-of-the-test");
        EXPECT_TRUE(stub->Register(&context, request, &reply).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::string expected = "r";
  for (int i = 1; i < 6 * 60; ++i) expected += "lr";
  EXPECT_EQ(expected, said);
}

TEST_F(AgentsTest, JoinIsAnsweredOrRefusedOrTheAgentIsLost) {
  ASSERT_TRUE(Register(Info()).ok());
  agents_->Carry(core::SendJoin{"a", JoinOf(1)});
  auto answer = log_.Take<core::JoinAnswered>();
  ASSERT_TRUE(answer.has_value());
  ASSERT_TRUE(answer->reply.ok()) << answer->reply.status();
  EXPECT_EQ("epoch 1", answer->reply->numerics_id);

  worker_.join_status = grpc::Status(grpc::StatusCode::NOT_FOUND, "no such model");
  agents_->Carry(core::SendJoin{"a", JoinOf(2)});
  answer = log_.Take<core::JoinAnswered>();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(absl::NotFoundError("no such model"), answer->reply.status());

  worker_.Die();
  agents_->Carry(core::SendJoin{"a", JoinOf(3)});
  const auto lost = log_.Take<core::AgentLost>();
  ASSERT_TRUE(lost.has_value());
  EXPECT_NE(std::string::npos, lost->reason.find("JoinGroup")) << lost->reason;
}

TEST_F(AgentsTest, ANewerEpochSilencesOlderCalls) {
  ASSERT_TRUE(Register(Info()).ok());
  worker_.hold_join = true;
  agents_->Carry(core::SendJoin{"a", JoinOf(1)});
  agents_->Carry(core::SendAbort{"a", 2, "changed its mind"});
  worker_.Release();
  agents_->Carry(core::SendJoin{"a", JoinOf(2)});
  const auto answer = log_.Take<core::JoinAnswered>();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(2u, answer->epoch);
  EXPECT_EQ(0, log_.Count<core::JoinAnswered>());
  EXPECT_EQ(0, log_.Count<core::AgentLost>());
}

TEST_F(AgentsTest, PreloadProgressAndFailures) {
  ASSERT_TRUE(Register(Info()).ok());
  proto::PreloadProgress half, done;
  half.mutable_load()->set_agent("a");
  half.mutable_load()->set_bytes_done(50);
  *done.mutable_load() = DoneMessage();
  done.mutable_reply()->set_numerics_id("n");
  worker_.preload_messages = {half, done};
  agents_->Carry(core::SendPreload{"a", JoinOf(3)});
  const auto first = log_.Take<core::PreloadAdvanced>();
  const auto second = log_.Take<core::PreloadAdvanced>();
  ASSERT_TRUE(first.has_value() && second.has_value());
  EXPECT_EQ(50, first->progress.bytes_done);
  EXPECT_EQ(3u, first->epoch);
  EXPECT_FALSE(first->progress.done);
  EXPECT_TRUE(second->progress.done);
  EXPECT_EQ("n", second->reply.numerics_id);

  worker_.preload_messages = {half};
  worker_.load_status = grpc::Status(grpc::StatusCode::NOT_FOUND, "no such model");
  agents_->Carry(core::SendPreload{"a", JoinOf(3)});
  auto failed = log_.Take<core::PreloadFailed>();
  ASSERT_TRUE(failed.has_value());
  EXPECT_EQ(absl::NotFoundError("no such model"), failed->status);
  EXPECT_EQ("a", failed->agent);

  worker_.load_status = grpc::Status::OK;  // without having said that it is done
  agents_->Carry(core::SendPreload{"a", JoinOf(3)});
  failed = log_.Take<core::PreloadFailed>();
  ASSERT_TRUE(failed.has_value());
  EXPECT_EQ(absl::StatusCode::kInternal, failed->status.code());

  // A later epoch has the last word.
  worker_.preload_messages = {};
  worker_.hold_join = true;
  agents_->Carry(core::SendPreload{"a", JoinOf(3)});
  agents_->Carry(core::SendAbort{"a", 4, "changed its mind"});
  EXPECT_EQ(4u, worker_.FirstAbort());
  worker_.Release();
  EXPECT_EQ(0, log_.Count<core::PreloadFailed>());
  EXPECT_EQ(0, log_.Count<core::AgentLost>());
}

TEST_F(AgentsTest, LoadProgressAndFailures) {
  ASSERT_TRUE(Register(Info()).ok());
  proto::LoadModelProgress half;
  half.set_agent("a");
  half.set_bytes_done(50);
  half.set_bytes_total(100);
  worker_.load_messages = {half, DoneMessage()};
  agents_->Carry(core::SendLoad{"a", LoadOf(1)});
  const auto first = log_.Take<core::LoadAdvanced>();
  const auto second = log_.Take<core::LoadAdvanced>();
  ASSERT_TRUE(first.has_value() && second.has_value());
  EXPECT_EQ(50, first->progress.bytes_done);
  EXPECT_TRUE(second->progress.done);

  worker_.load_messages = {half};
  worker_.load_status = grpc::Status(grpc::StatusCode::DATA_LOSS, "truncated");
  agents_->Carry(core::SendLoad{"a", LoadOf(2)});
  auto failed = log_.Take<core::LoadFailed>();
  ASSERT_TRUE(failed.has_value());
  EXPECT_EQ(absl::DataLossError("truncated"), failed->status);

  // A rank that ended while it started: the load went wrong, the agent is there.
  worker_.load_status = grpc::Status(grpc::StatusCode::ABORTED, "rank 1 killed by signal 9");
  agents_->Carry(core::SendLoad{"a", LoadOf(3)});
  failed = log_.Take<core::LoadFailed>();
  ASSERT_TRUE(failed.has_value());
  EXPECT_EQ(absl::AbortedError("rank 1 killed by signal 9"), failed->status);
  EXPECT_EQ(0, log_.Count<core::AgentLost>());

  worker_.load_status = grpc::Status::OK;
  agents_->Carry(core::SendLoad{"a", LoadOf(4)});
  failed = log_.Take<core::LoadFailed>();
  ASSERT_TRUE(failed.has_value());
  EXPECT_EQ(absl::StatusCode::kInternal, failed->status.code());
}

TEST_F(AgentsTest, PlansArriveInOrderAndAnswersComeBack) {
  ASSERT_TRUE(Register(Info()).ok());
  proto::ExecuteReply exit, result, stale;
  exit.mutable_exit()->set_rank(2);
  exit.mutable_exit()->set_epoch(1);
  exit.mutable_exit()->set_cause("killed by signal 9");
  result.mutable_result()->set_result(plan::EncodeResult(ResultOf({1, 7, 4})));
  stale.mutable_result()->set_result(plan::EncodeResult(ResultOf({0, 7, 9})));
  worker_.greetings = {stale, result, exit};
  worker_.load_messages = {DoneMessage()};
  agents_->Carry(core::SendLoad{"a", LoadOf(1)});
  // The stream is open before any plan is sent.
  const auto exited = log_.Take<core::RankExited>();
  ASSERT_TRUE(exited.has_value());
  EXPECT_EQ(2, exited->exit.rank);
  const auto answered = log_.Take<core::StepAnswered>();
  ASSERT_TRUE(answered.has_value());
  EXPECT_EQ(4u, answered->result.stamp.step);
  EXPECT_EQ(0, log_.Count<core::StepAnswered>());  // the stale one was dropped
  EXPECT_EQ(1u, Stale(plan::StalePlace::kFrame));

  constexpr uint64_t kPlans = 500;
  for (uint64_t step = 1; step <= kPlans; ++step) {
    // One far beyond gRPC's own limit of 4 MiB.
    const std::string bytes(step == 250 ? 20 << 20 : 100, 'x');
    agents_->Carry(core::SendPlan{{"a", "stranger"}, {1, 7, step}, bytes});
  }
  ASSERT_TRUE(worker_.SawStep(kPlans));
  const std::vector<uint64_t> steps = worker_.steps();
  ASSERT_EQ(kPlans, steps.size());
  for (uint64_t i = 0; i < kPlans; ++i) EXPECT_EQ(i + 1, steps[i]);

  // Plans of an epoch that is over go nowhere.
  agents_->Carry(core::SendAbort{"a", 2, "over"});
  agents_->Carry(core::SendPlan{{"a"}, {1, 7, kPlans + 1}, "late"});
  agents_->Carry(core::SendPlan{{"a"}, {2, 7, 1000}, "new"});
  ASSERT_TRUE(worker_.SawStep(1000));
  EXPECT_EQ(kPlans + 1, worker_.steps().size());
  EXPECT_EQ(2u, worker_.FirstAbort());
  EXPECT_EQ(0, log_.Count<core::AgentLost>());
}

TEST_F(AgentsTest, BrokenStepStreamLosesTheAgentAndItsHeartbeats) {
  ASSERT_TRUE(Register(Info()).ok());
  Beats beats(*stub_);
  EXPECT_TRUE(beats.Send("a", 1, 1));
  ASSERT_TRUE(log_.Take<core::HeartbeatReceived>().has_value());
  worker_.end_execute_after_greetings = true;
  agents_->Carry(core::SendPlan{{"a"}, {1, 7, 1}, "plan"});
  const auto lost = log_.Take<core::AgentLost>();
  ASSERT_TRUE(lost.has_value());
  EXPECT_NE(std::string::npos, lost->reason.find("step stream of epoch 1")) << lost->reason;
  EXPECT_EQ(grpc::StatusCode::ABORTED, beats.writer->Finish().error_code());
}

TEST_F(AgentsTest, NonsenseOnTheStepStreamLosesTheAgent) {
  ASSERT_TRUE(Register(Info()).ok());
  proto::ExecuteReply nonsense;
  nonsense.mutable_result()->set_result("\xff\xff\xff");
  worker_.greetings = {nonsense};
  agents_->Carry(core::SendPlan{{"a"}, {1, 7, 1}, "plan"});
  const auto lost = log_.Take<core::AgentLost>();
  ASSERT_TRUE(lost.has_value());
  EXPECT_NE(std::string::npos, lost->reason.find("nonsense")) << lost->reason;
}

TEST_F(AgentsTest, EndsWhileCallsAreUnderWay) {
  ASSERT_TRUE(Register(Info()).ok());
  Beats beats(*stub_);
  EXPECT_TRUE(beats.Send("a", 1, 1));
  ASSERT_TRUE(log_.Take<core::HeartbeatReceived>().has_value());
  worker_.hold_join = true;
  agents_->Carry(core::SendJoin{"a", JoinOf(1)});
  agents_->Carry(core::SendPlan{{"a"}, {1, 7, 1}, "plan"});
  agents_.reset();
  EXPECT_FALSE(beats.writer->Finish().ok());
  EXPECT_EQ(0, log_.Count<core::AgentLost>());  // its own end is no loss
}

TEST_F(AgentsTest, SpeaksTheStandardHealthProtocol) {
  grpc::GenericStub stub(plan::Connect(agents_->address()));
  grpc::ClientContext context;
  grpc::ByteBuffer request, response;
  grpc::Slice empty;
  request = grpc::ByteBuffer(&empty, 1);
  std::atomic<bool> done{false};
  grpc::Status status;
  Mutex mutex;
  CondVar changed;
  stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request, &response,
                 [&](const grpc::Status& s) {
                   MutexLock lock(mutex);
                   status = s;
                   done = true;
                   changed.NotifyAll();
                 });
  MutexLock lock(mutex);
  while (!done) changed.Wait(mutex);
  ASSERT_TRUE(status.ok()) << status.error_message();
  std::vector<grpc::Slice> slices;
  ASSERT_TRUE(response.Dump(&slices).ok());
  ASSERT_EQ(1u, slices.size());
  EXPECT_EQ(std::string("\x08\x01"), std::string(slices[0].begin(), slices[0].end()));  // status: SERVING
}

TEST(AgentsStart, AddressesAreChecked) {
  rpc::AgentsOptions options;
  options.listen = "0.0.0.0:0";
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, rpc::Agents::Start(options, [](core::Event) {}).status().code());
  options.insecure = true;
  EXPECT_TRUE(rpc::Agents::Start(options, [](core::Event) {}).ok());
  options.listen = "127.0.0.1:0";
  const auto first = rpc::Agents::Start(options, [](core::Event) {});
  ASSERT_TRUE(first.ok());
  options.listen = (*first)->address();
  const auto second = rpc::Agents::Start(options, [](core::Event) {});
  EXPECT_EQ(absl::StatusCode::kUnavailable, second.status().code());
  EXPECT_NE(std::string::npos, second.status().message().find("in use")) << second.status();
}

}  // namespace
}  // namespace shoal
