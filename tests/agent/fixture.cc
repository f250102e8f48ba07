#include "tests/agent/fixture.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/plan/wire.h"
#include "tests/testing/tiny_model.h"

namespace shoal::testing {
namespace {

constexpr char kBuild[] = "build-of-the-test";
constexpr uint64_t kCoordinator = 7;

}  // namespace

void EventLog::Post(core::Event event) {
  MutexLock lock(mutex_);
  events_.push_back(std::move(event));
  came_.NotifyAll();
}

AgentThread::AgentThread(agent::AgentOptions options)
    : thread_([this, options = std::move(options)] { result_ = agent::RunAgent(options, stop_); }) {}

AgentThread::~AgentThread() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

absl::Status AgentThread::Stop() {
  stop_ = true;
  return Join();
}

absl::Status AgentThread::Join() {
  if (thread_.joinable()) thread_.join();
  return result_;
}

std::unique_ptr<rpc::Agents> StartAgents(EventLog* log, const std::string& listen, uint64_t incarnation,
                                         std::shared_ptr<rpc::StaleTally> stale) {
  rpc::AgentsOptions options;
  options.listen = listen;
  options.incarnation = incarnation;
  options.build_id = kBuild;
  options.stale = std::move(stale);
  options.heartbeat_interval = 50 * kMillisecond;
  auto agents = rpc::Agents::Start(options, [log](core::Event event) { log->Post(std::move(event)); });
  EXPECT_TRUE(agents.ok()) << agents.status();
  return agents.ok() ? *std::move(agents) : nullptr;
}

agent::AgentOptions OptionsFor(const std::string& coordinator, int slots) {
  agent::AgentOptions options;
  options.coordinator = coordinator;
  options.slots = slots;
  options.threads = 1;
  options.memory_bytes = int64_t{1} << 30;
  options.build_id = kBuild;
  options.rank_binary = std::getenv("SHOAL_BINARY");
  return options;
}

int FreePort() {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* raw = reinterpret_cast<sockaddr*>(&address);
  EXPECT_EQ(0, ::bind(fd, raw, length));
  EXPECT_EQ(0, ::getsockname(fd, raw, &length));
  ::close(fd);
  return ntohs(address.sin_port);
}

TinyGroup::TinyGroup(EventLog* log, rpc::Agents* agents, const std::string& device, const std::string& transport)
    : log_(log), agents_(agents) {
  TinyModel tiny;
  tiny.layers = 4;
  WriteTinyGguf(tiny, dir_ / "tiny.gguf");
  auto files = model::OpenModel(dir_ / "tiny.gguf");
  EXPECT_TRUE(files.ok()) << files.status();
  if (files.ok()) files_ = *std::move(files);
  engine_.device = device;
  engine_.transport = transport;
  engine_.compute_dtype = "f32";
}

plan::MirrorLimits TinyGroup::limits() const { return {32, 16, 4, 64, 128, files_.config.vocab}; }

plan::JoinGroup TinyGroup::MakeJoin(uint64_t epoch, int tp, int pp, const std::vector<plan::AgentInfo>& agents) const {
  plan::JoinGroup join;
  join.epoch = epoch;
  join.coordinator = kCoordinator;
  join.model = files_.path;
  join.revision = files_.revision;
  join.engine = engine_;
  join.tp = tp;
  join.pp = pp;
  auto shards = plan::MakeShardPlan(files_.config, tp, pp);
  EXPECT_TRUE(shards.ok()) << shards.status();
  join.shard_hash = shards->Hash();
  for (const plan::AgentInfo& a : agents) {
    for (int slot = 0; slot < static_cast<int>(a.slots.size()); ++slot) {
      const int rank = static_cast<int>(join.ranks.size());
      if (rank < tp * pp) join.ranks.push_back({rank, a.id, slot});
    }
  }
  join.comm_token = absl::StrCat("test-", ::getpid(), "-", epoch);
  join.limits = limits();
  join.limits.blocks = 0;
  return join;
}

void TinyGroup::Join(uint64_t epoch, int tp, int pp, const std::vector<plan::AgentInfo>& agents) {
  const plan::JoinGroup join = MakeJoin(epoch, tp, pp, agents);
  for (const plan::AgentInfo& a : agents) agents_->Carry(core::SendJoin{a.id, join});
}

std::vector<plan::LoadProgress> TinyGroup::Form(uint64_t epoch, int tp, int pp,
                                                const std::vector<plan::AgentInfo>& agents) {
  epoch_ = epoch;
  step_ = 0;
  ranks_ = tp * pp;
  sampling_rank_ = (pp - 1) * tp;
  mirror_ = std::make_unique<plan::PlanMirror>(limits());
  ended_ = 0;
  members_.clear();
  replies_.clear();
  Join(epoch, tp, pp, agents);
  std::vector<plan::LoadProgress> done;
  if (!TakeJoins(epoch, agents.size())) return done;
  for (const plan::AgentInfo& a : agents) members_.push_back(a.id);
  if (engine_.transport == "gloo") {
    const plan::ConnectRanks connect = LoadUntilPublished(epoch, agents);
    for (const plan::AgentInfo& a : agents) agents_->Carry(core::SendConnect{a.id, connect});
  } else {
    for (const plan::AgentInfo& a : agents) agents_->Carry(core::SendLoad{a.id, {epoch, limits()}});
  }
  for (size_t i = 0; i < agents.size(); ++i) {
    auto loaded = log_->Take<core::LoadAdvanced>([&](const auto& e) { return e.epoch == epoch && e.progress.done; });
    if (!loaded.has_value()) {
      ADD_FAILURE() << "an agent did not load";
      return done;
    }
    done.push_back(loaded->progress);
  }
  return done;
}

bool TinyGroup::TakeJoins(uint64_t epoch, size_t agents) {
  for (size_t i = 0; i < agents; ++i) {
    auto answered = log_->Take<core::JoinAnswered>([&](const auto& e) { return e.epoch == epoch; });
    if (!answered.has_value() || !answered->reply.ok()) {
      ADD_FAILURE() << (answered.has_value() ? answered->reply.status().ToString() : "no answer to JoinGroup");
      return false;
    }
    replies_.push_back(*answered->reply);
  }
  return true;
}

plan::ConnectRanks TinyGroup::LoadUntilPublished(uint64_t epoch, const std::vector<plan::AgentInfo>& agents) {
  plan::ConnectRanks connect{epoch, kCoordinator, {}};
  for (const plan::AgentInfo& a : agents) agents_->Carry(core::SendLoad{a.id, {epoch, limits()}});
  for (size_t i = 0; i < agents.size(); ++i) {
    auto published = log_->Take<core::LoadAdvanced>(
        [&](const auto& e) { return e.epoch == epoch && !e.progress.addresses.empty(); });
    if (!published.has_value()) {
      ADD_FAILURE() << "an agent did not publish";
      return connect;
    }
    const std::vector<plan::RankAddress>& more = published->progress.addresses;
    connect.ranks.insert(connect.ranks.end(), more.begin(), more.end());
  }
  std::sort(connect.ranks.begin(), connect.ranks.end(), [](const auto& a, const auto& b) { return a.rank < b.rank; });
  return connect;
}

plan::Stamp TinyGroup::Send(plan::StepPlan plan) {
  plan.stamp = {epoch_, kCoordinator, ++step_};
  const absl::Status applied = mirror_->Apply(plan, false);
  EXPECT_TRUE(applied.ok()) << applied;
  plan.mirror_digest = mirror_->digest();
  agents_->Carry(core::SendPlan{members_, plan.stamp, plan::EncodePlan(plan)});
  return plan.stamp;
}

void TinyGroup::SendStep() {
  plan::StepPlan plan;
  if (ended_ != 0) plan.ends.push_back(std::exchange(ended_, 0));
  plan.starts.push_back({next_sequence_, {1}, 1, {}, {1}, 0});
  plan.rows.push_back({.id = next_sequence_++, .position = 0, .count = 1, .output = plan::RowOutput::kSample});
  Send(std::move(plan));
}

plan::StepResult TinyGroup::RunStep(plan::StepPlan plan) {
  const plan::Stamp stamp = Send(std::move(plan));
  plan::StepResult sampled;
  for (int i = 0; i < ranks_; ++i) {
    auto answer = log_->Take<core::StepAnswered>([&](const auto& e) { return e.result.stamp == stamp; });
    if (!answer.has_value()) {
      ADD_FAILURE() << "step " << step_ << " has " << i << " answers of " << ranks_;
      return sampled;
    }
    EXPECT_EQ("", answer->result.error);
    if (answer->result.rank == sampling_rank_) sampled = answer->result;
  }
  return sampled;
}

std::vector<int32_t> TinyGroup::Generate(const std::vector<int32_t>& prompt, int count) {
  const plan::SequenceId id = next_sequence_++;
  const auto length = static_cast<int32_t>(prompt.size());
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) {
    plan::StepPlan plan;
    plan::Row row{.id = id, .output = plan::RowOutput::kSample};
    if (i == 0) {
      // Blocks for the whole answer, not in ascending order.
      std::vector<int32_t> blocks;
      for (int b = (length + count + 15) / 16; b > 0; --b) blocks.push_back(2 * b);
      if (ended_ != 0) plan.ends.push_back(ended_);
      plan.starts.push_back({id, prompt, length, {}, std::move(blocks), 0});
      row.count = length;
    } else {
      row.source = plan::TokenSource::kLastSample;
      row.position = length + i - 1;
      row.count = 1;
    }
    plan.rows.push_back(row);
    if (::testing::Test::HasFailure()) return tokens;
    const plan::StepResult result = RunStep(std::move(plan));
    if (result.rows.size() != 1 || result.rows[0].tokens.size() != 1) {
      ADD_FAILURE() << "step " << step_ << " sampled nothing";
      return tokens;
    }
    tokens.push_back(result.rows[0].tokens[0]);
    mirror_->RecordSample(id, tokens.back());
  }
  ended_ = id;
  return tokens;
}

std::vector<int> Children() {
  std::vector<int> children;
  DIR* proc = ::opendir("/proc");
  while (const dirent* entry = ::readdir(proc)) {
    const int pid = std::atoi(entry->d_name);
    if (pid <= 0) continue;
    int parent = 0;
    char state = 0;
    std::FILE* stat = std::fopen(absl::StrCat("/proc/", pid, "/stat").c_str(), "r");
    if (stat == nullptr) continue;
    const bool read = std::fscanf(stat, "%*d (%*[^)]) %c %d", &state, &parent) == 2;
    std::fclose(stat);
    if (!read || parent != ::getpid()) continue;
    // One that is dead but not reaped has no arguments any more.
    const std::string arguments = ReadFile(absl::StrCat("/proc/", pid, "/cmdline"));
    const bool rank = arguments.find(std::string("\0rank\0", 6)) != std::string::npos;
    if (rank || state == 'Z') children.push_back(pid);
  }
  ::closedir(proc);
  return children;
}

}  // namespace shoal::testing
