// The coordinator process as a function: what it says while no agent has come, how it ends, and what keeps it from
// starting.
#include "coordinator/server/server.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <gtest/gtest.h>

#include <future>
#include <thread>

#include "cluster.grpc.pb.h"
#include "common/plan/wire_grpc.h"
#include "tests/http/raw_client.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace shoal::server {
namespace {

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = dir_.path() + "/tiny.gguf";
    testing::WriteTinyGguf({}, path_);
  }
  CoordinatorOptions Options(int port) const {
    CoordinatorOptions options;
    options.model = path_;
    options.port = port;
    options.api_keys = {"k"};
    options.core.engine.device = "null";
    options.shutdown_timeout = 200 * kMillisecond;
    return options;
  }
  testing::TempDir dir_;
  std::string path_;
};

// RunCoordinator on a thread of its own, until Stop.
class Running {
 public:
  explicit Running(const CoordinatorOptions& options) {
    progress_.on_control_ready = [this](const std::string& address, int port) {
      http_port_ = port;
      control_.set_value(address);
    };
    progress_.on_state = [this](const core::ClusterState& state) {
      if (states_++ == 0) detail_.set_value(state.detail);
    };
    thread_ = std::thread([this, options] { result_ = RunCoordinator(options, progress_, stop_); });
  }
  ~Running() { Stop().IgnoreError(); }
  int http_port() const { return http_port_; }
  std::string control() { return control_.get_future().get(); }
  std::string detail() { return detail_.get_future().get(); }
  absl::Status Stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
    return result_;
  }

 private:
  std::atomic<bool> stop_{false};
  std::atomic<int> states_{0}, http_port_{0};
  std::promise<std::string> control_, detail_;
  Progress progress_;
  absl::Status result_;
  std::thread thread_;
};

TEST_F(ServerTest, WithoutAgentsItAnswersThatItIsNotReady) {
  const int port = http::UnusedPort();
  Running running(Options(port));
  EXPECT_EQ(running.control().substr(0, 10), "127.0.0.1:");
  EXPECT_EQ(running.http_port(), port);
  EXPECT_NE(running.detail(), "");
  const auto get = [&](const char* path) {
    return http::Fetch(port, http::GetRequest(path, "Authorization: Bearer k\r\n"));
  };
  EXPECT_EQ(get("/livez").status, 200);
  EXPECT_EQ(get("/readyz").status, 503);
  EXPECT_EQ(get("/metrics").status, 200);
  EXPECT_NE(get("/v1/cluster").body.find("waiting_for_agents"), std::string::npos);
  const http::RawResponse refused =
      http::Fetch(port, http::PostRequest("/v1/completions", R"({"prompt":"a"})", "Authorization: Bearer k\r\n"));
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.headers.count("retry-after"), 1u);
  EXPECT_EQ(http::Fetch(port, http::GetRequest("/v1/cluster")).status, 401);
  EXPECT_TRUE(running.Stop().ok());
}

TEST_F(ServerTest, WhatItRefusesOfStrangersIsCountedInItsMetrics) {
  const int port = http::UnusedPort();
  Running running(Options(port));
  const auto stub = proto::Cluster::NewStub(plan::Connect(running.control()));
  grpc::ClientContext context;
  proto::HeartbeatsReply reply;
  const auto beats = stub->Heartbeats(&context, &reply);
  proto::Heartbeat stranger;
  stranger.set_agent("a");
  beats->Write(stranger);
  EXPECT_EQ(beats->Finish().error_code(), grpc::StatusCode::NOT_FOUND);
  const std::string metrics = http::Fetch(port, http::GetRequest("/metrics")).body;
  EXPECT_NE(metrics.find("shoal:stale_total{where=\"heartbeat\"} 1\n"), std::string::npos) << metrics;
  EXPECT_TRUE(running.Stop().ok());
}

TEST_F(ServerTest, WhatKeepsItFromStartingIsSaid) {
  const int port = http::UnusedPort();
  const std::atomic<bool> stop{false};
  Running first(Options(port));
  first.control();
  const absl::Status in_use = RunCoordinator(Options(port), {}, stop);
  EXPECT_EQ(in_use.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(in_use.message()).find(std::to_string(port)), std::string::npos);

  CoordinatorOptions missing = Options(0);
  missing.model = dir_.path() + "/nothing.gguf";
  EXPECT_EQ(RunCoordinator(missing, {}, stop).code(), absl::StatusCode::kNotFound);

  CoordinatorOptions elsewhere = Options(0);
  elsewhere.host = "203.0.113.7";  // TEST-NET-3: never ours
  EXPECT_EQ(RunCoordinator(elsewhere, {}, stop).code(), absl::StatusCode::kInvalidArgument);

  CoordinatorOptions shared = Options(0);
  shared.state_dir = dir_.path() + "/state";
  Running second(shared);
  second.control();
  const absl::Status locked = RunCoordinator(shared, {}, stop);
  EXPECT_EQ(locked.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(locked.message()).find("in use by another coordinator"), std::string::npos);
  EXPECT_TRUE(first.Stop().ok());
}

}  // namespace
}  // namespace shoal::server
