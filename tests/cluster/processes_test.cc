// Ranks as processes, over one shared segment and over Gloo: the same text as in threads; one killed, and the others
// end: when told to, or by themselves where the transport notices.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <map>
#include <optional>
#include <set>
#include <thread>

#include "common/base/rng.h"
#include "common/plan/wire.h"
#include "tests/cluster/harness/driver.h"
#include "tests/cluster/layouts.h"
#include "tests/cluster/process_shape.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"
#include "worker/rank/operation.h"

namespace shoal::testing {
namespace {

const TinyModel kTiny = {
    .layers = 3, .hidden = 64, .heads = 6, .kv_heads = 3, .head_dim = 32, .ffn = 160, .vocab = 352};

std::vector<TestRequest> Requests() {
  std::vector<TestRequest> requests(3);
  for (int r = 0; r < 3; ++r) {
    for (int i = 0; i < 5 + 13 * r; ++i) requests[r].prompt.push_back(static_cast<int32_t>(RandomBits(3, r, i) % 352));
    requests[r].new_tokens = 10;
  }
  return requests;
}

// One plan for all prompts, then one for each further token: what the processes are given.
std::vector<plan::StepPlan> PlansFor(const DriverResult& texts, const plan::MirrorLimits& limits) {
  plan::PlanMirror mirror(limits);
  std::vector<plan::StepPlan> plans;
  for (int step = 0; step < 10; ++step) {
    plan::StepPlan& plan = plans.emplace_back();
    plan.stamp = {.epoch = 1, .incarnation = 1, .step = step + 1ull};
    for (size_t r = 0; r < texts.tokens.size(); ++r) {
      const TestRequest request = Requests()[r];
      const int prompt = static_cast<int>(request.prompt.size());
      if (step == 0) {
        plan::SequenceStart& start = plan.starts.emplace_back();
        start.id = r + 1;
        start.tokens = request.prompt;
        start.prompt_tokens = prompt;
        for (int b = 0; b * limits.block_size < prompt + 10; ++b) {
          start.blocks.push_back(static_cast<int32_t>(63 - 5 * b - r));
        }
        plan.rows.push_back({.id = r + 1, .position = 0, .count = prompt, .output = plan::RowOutput::kSample});
      } else {
        plan.rows.push_back({.id = r + 1,
                             .source = plan::TokenSource::kLastSample,
                             .position = prompt + step - 1,
                             .count = 1,
                             .output = plan::RowOutput::kSample});
      }
    }
    EXPECT_TRUE(mirror.Apply(plan, false).ok());
    plan.mirror_digest = mirror.digest();
  }
  return plans;
}

class Processes {
 public:
  // `others`: ranks that read another file.
  Processes(Layout layout, const std::string& model, const std::string& table, comm::Transport transport,
            const std::map<int, std::string>& others = {})
      : transport_(transport), ranks_(layout.tp * layout.pp) {
    const comm::GroupShape shape = ProcessShape(kTiny.hidden, layout.tp, layout.pp);
    bytes_ = SegmentBytes(shape);
    segment_ = memfd_create("cluster", 0);
    EXPECT_EQ(ftruncate(segment_, static_cast<off_t>(bytes_)), 0);
    pages_ = static_cast<rank::ControlPage*>(mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, segment_, 0));
    for (int r = 0; r < static_cast<int>(ranks_.size()); ++r) {
      Start(r, layout, others.contains(r) ? others.at(r) : model, table);
    }
    if (transport == comm::Transport::kGloo) Introduce();
  }
  ~Processes() {
    for (Rank& rank : ranks_) {
      close(rank.in);
      close(rank.out);
      if (rank.pid > 0) kill(rank.pid, SIGKILL);
      Reap(rank);
    }
    munmap(pages_, bytes_);
    close(segment_);
  }

  void Submit(int r, const plan::StepPlan& plan) { Tell(r, plan::EncodePlan(plan)); }
  absl::StatusOr<plan::StepResult> Result(int r) {
    const std::optional<std::string> message = Hear(r);
    if (!message.has_value()) return absl::UnavailableError("the rank is gone");
    return plan::DecodeResult(*message);
  }
  void Kill(int r) { kill(ranks_[r].pid, SIGKILL); }
  void CloseInput(int r) {
    close(ranks_[r].in);
    ranks_[r].in = -1;
  }
  // The wait status.
  int Reap(int r) { return Reap(ranks_[r]); }
  rank::ControlPage& page(int r) { return pages_[r]; }
  int size() const { return static_cast<int>(ranks_.size()); }

 private:
  struct Rank {
    pid_t pid = -1;
    int in = -1, out = -1;
  };

  void Tell(int r, const std::string& message) {
    const auto size = static_cast<uint32_t>(message.size());
    const std::string frame = std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + message;
    EXPECT_EQ(write(ranks_[r].in, frame.data(), frame.size()), static_cast<ssize_t>(frame.size()));
  }
  std::optional<std::string> Hear(int r) {
    uint32_t size = 0;
    if (!ReadAll(ranks_[r].out, &size, sizeof(size))) return std::nullopt;
    std::string message(size, 0);
    if (!ReadAll(ranks_[r].out, message.data(), size)) return std::nullopt;
    return message;
  }
  // Everybody's address to everybody.
  void Introduce() {
    std::vector<std::string> addresses;
    for (int r = 0; r < size(); ++r) addresses.push_back(Hear(r).value_or(""));
    for (int r = 0; r < size(); ++r) {
      for (const std::string& address : addresses) Tell(r, address);
    }
  }
  static bool ReadAll(int fd, void* data, size_t bytes) {
    for (auto* at = static_cast<char*>(data); bytes > 0;) {
      const ssize_t n = read(fd, at, bytes);
      if (n <= 0) return false;
      at += n;
      bytes -= n;
    }
    return true;
  }
  static int Reap(Rank& rank) {
    int status = 0;
    if (rank.pid > 0) waitpid(rank.pid, &status, 0);
    rank.pid = -1;
    return status;
  }
  void Start(int r, Layout layout, const std::string& model, const std::string& table) {
    int in[2], out[2];
    ASSERT_EQ(pipe2(in, O_CLOEXEC), 0);
    ASSERT_EQ(pipe2(out, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    std::vector<std::string> args = {CLUSTER_RANK,
                                     model,
                                     table,
                                     std::to_string(layout.tp),
                                     std::to_string(layout.pp),
                                     std::to_string(r),
                                     std::to_string(segment_),
                                     std::string(comm::kTransportNames[static_cast<size_t>(transport_)])};
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    ASSERT_EQ(posix_spawn(&ranks_[r].pid, CLUSTER_RANK, &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    ranks_[r].in = in[1];
    ranks_[r].out = out[0];
  }

  const comm::Transport transport_;
  std::vector<Rank> ranks_;
  size_t bytes_ = 0;
  int segment_ = -1;
  rank::ControlPage* pages_ = nullptr;
};

class ProcessesTest : public ::testing::TestWithParam<comm::Transport> {
 protected:
  void SetUp() override {
    std::signal(SIGPIPE, SIG_IGN);
    WriteTinyGguf(kTiny, model_);
  }
  const TempDir directory_;
  const std::string model_ = directory_ / "tiny.gguf";
};

TEST_P(ProcessesTest, TextIsThatOfThreads) {
  for (const char* table : {"null", "cpu"}) {
    const auto shards = LoadShards(OpenTinyModel(kTiny).value(), 2, 2, table, false).value();
    const auto threads = RunAlone(
        *RankSet::Make(shards, {.transport = comm::TestTransport::kShm, .kv = DType::kF16}).value(), Requests(), {});
    ASSERT_TRUE(threads.ok()) << threads.status();
    Processes group({2, 2}, model_, table, GetParam());
    const auto plans = PlansFor(*threads, ProcessLimits(kTiny.vocab));
    for (const plan::StepPlan& plan : plans) {
      for (int r = 0; r < group.size(); ++r) group.Submit(r, plan);
    }
    std::vector<std::vector<int32_t>> tokens(3);
    for (const plan::StepPlan& plan : plans) {
      const auto result = group.Result(2);  // tensor rank 0 of the last stage samples
      ASSERT_TRUE(result.ok()) << result.status();
      ASSERT_EQ(result->error, "");
      EXPECT_EQ(result->stamp, plan.stamp);
      for (const plan::RowResult& row : result->rows) {
        tokens[row.id - 1].insert(tokens[row.id - 1].end(), row.tokens.begin(), row.tokens.end());
      }
    }
    EXPECT_EQ(tokens, threads->tokens) << table;
    for (int r = 0; r < group.size(); ++r) {
      group.CloseInput(r);
      EXPECT_EQ(group.Reap(r), 0) << "rank " << r;
      EXPECT_EQ(group.page(r).step, 10u);
      for (size_t t = 0; t < comm::kTransportNames.size(); ++t) {
        EXPECT_EQ(group.page(r).sent[t].tensor > 0, t == static_cast<size_t>(GetParam())) << comm::kTransportNames[t];
      }
    }
  }
}

TEST_P(ProcessesTest, WhenOneIsKilledTheOthersWaitUntilTheyAreAborted) {
  if (GetParam() != comm::Transport::kShm) GTEST_SKIP() << "they end by themselves";
  const auto shards = LoadShards(OpenTinyModel(kTiny).value(), 1, 1, "null", false).value();
  const auto texts = RunAlone(*RankSet::Make(shards, {}).value(), Requests(), {});
  ASSERT_TRUE(texts.ok()) << texts.status();
  Processes group({2, 2}, model_, "null", GetParam());
  const auto plans = PlansFor(*texts, ProcessLimits(kTiny.vocab));
  for (int r = 0; r < group.size(); ++r) group.Submit(r, plans[0]);
  ASSERT_TRUE(group.Result(2).ok());
  group.Kill(1);
  EXPECT_TRUE(WIFSIGNALED(group.Reap(1)));
  for (const int r : {0, 2, 3}) group.Submit(r, plans[1]);
  // Rank 0 waits for the dead one's part, the next stage for what then never comes.
  const auto waits_in = [&](int r, rank::Operation op) {
    while (group.page(r).operation != static_cast<uint32_t>(op)) std::this_thread::yield();
  };
  waits_in(0, rank::Operation::kReduceEmbedding);
  waits_in(2, rank::Operation::kReceive);
  waits_in(3, rank::Operation::kReceive);
  for (const int r : {0, 2, 3}) group.page(r).abort = 1;
  for (const int r : {0, 2, 3}) {
    const int status = group.Reap(r);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << "rank " << r << " ended with " << status;
    EXPECT_LE(group.page(r).step, 1u);
  }
}

TEST_P(ProcessesTest, WhenOneIsKilledTheOthersAreTold) {
  if (GetParam() != comm::Transport::kGloo) GTEST_SKIP() << "nothing tells them";
  const auto shards = LoadShards(OpenTinyModel(kTiny).value(), 1, 1, "null", false).value();
  const auto texts = RunAlone(*RankSet::Make(shards, {}).value(), Requests(), {});
  ASSERT_TRUE(texts.ok()) << texts.status();
  Processes group({2, 2}, model_, "null", GetParam());
  const auto plans = PlansFor(*texts, ProcessLimits(kTiny.vocab));
  for (int r = 0; r < group.size(); ++r) group.Submit(r, plans[0]);
  ASSERT_TRUE(group.Result(2).ok());
  group.Kill(1);
  EXPECT_TRUE(WIFSIGNALED(group.Reap(1)));
  for (const int r : {0, 2, 3}) group.Submit(r, plans[1]);
  for (const int r : {0, 2, 3}) {
    const int status = group.Reap(r);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 8) << "rank " << r << " ended with " << status;
    EXPECT_LE(group.page(r).step, 1u);
  }
}

// Checksums of each rank, by plan; every other plan asks.
std::vector<std::vector<uint64_t>> Checksums(Processes& group, const std::vector<plan::StepPlan>& plans) {
  for (plan::StepPlan plan : plans) {
    plan.checksum = plan.stamp.step % 2 == 1;
    for (int r = 0; r < group.size(); ++r) group.Submit(r, plan);
  }
  std::vector<std::vector<uint64_t>> sums(group.size());
  for (int r = 0; r < group.size(); ++r) {
    for (size_t i = 0; i < plans.size(); ++i) {
      const auto result = group.Result(r);
      EXPECT_TRUE(result.ok() && result->error.empty()) << "rank " << r << " " << result.status();
      if (!result.ok()) return sums;
      sums[r].push_back(result->checksum);
    }
  }
  return sums;
}

TEST_P(ProcessesTest, TensorRanksHoldTheSameHiddenStatesToTheBit) {
  for (const char* table : {"null", "cpu"}) {
    const auto shards = LoadShards(OpenTinyModel(kTiny).value(), 1, 1, table, false).value();
    const auto texts = RunAlone(*RankSet::Make(shards, {.kv = DType::kF16}).value(), Requests(), {});
    ASSERT_TRUE(texts.ok()) << texts.status();
    const auto plans = PlansFor(*texts, ProcessLimits(kTiny.vocab));
    for (const Layout layout : {Layout{2, 2}, {3, 1}}) {
      SCOPED_TRACE(table + LayoutName(layout));
      Processes group(layout, model_, table, GetParam());
      const auto sums = Checksums(group, plans);
      std::set<uint64_t> different;
      for (int stage = 0; stage < layout.pp; ++stage) {
        const auto& first = sums[stage * layout.tp];
        for (int t = 1; t < layout.tp; ++t) EXPECT_EQ(sums[stage * layout.tp + t], first) << "stage " << stage;
        for (size_t i = 0; i < plans.size(); ++i) {
          EXPECT_EQ(first[i] != 0, i % 2 == 0) << "those that ask, and no other";
          if (first[i] != 0) different.insert(first[i]);
        }
      }
      EXPECT_EQ(different.size(), layout.pp * plans.size() / 2) << "of what is computed, not of nothing";
    }
  }
}

// One element of one norm is another one on one rank, as after a flipped bit: what it computes from then on is wrong,
// and its answers say so, while no operation fails.
TEST_P(ProcessesTest, ARankWithOneOtherWeightShowsInItsChecksums) {
  const auto shards = LoadShards(OpenTinyModel(kTiny).value(), 1, 1, "cpu", false).value();
  const auto texts = RunAlone(*RankSet::Make(shards, {.kv = DType::kF16}).value(), Requests(), {});
  ASSERT_TRUE(texts.ok()) << texts.status();
  const auto plans = PlansFor(*texts, ProcessLimits(kTiny.vocab));
  std::string bytes = TinyGguf(kTiny).Build().bytes;
  for (const TinyTensor& tensor : TinyTensors(kTiny)) {
    if (tensor.gguf_name != "blk.0.ffn_norm.weight") continue;
    const size_t at = bytes.find(
        std::string(reinterpret_cast<const char*>(tensor.values.data()), tensor.values.size() * sizeof(float)));
    ASSERT_NE(at, std::string::npos);
    bytes[at + 5 * sizeof(float) + 2] ^= 1;  // one bit of the sixth
  }
  const std::string other = directory_ / "other.gguf";
  WriteFile(other, bytes);
  Processes group({3, 2}, model_, "cpu", GetParam(), {{1, other}});
  const auto sums = Checksums(group, plans);
  for (size_t i = 0; i < plans.size(); i += 2) {
    EXPECT_EQ(sums[0][i], sums[2][i]);
    EXPECT_NE(sums[1][i], sums[0][i]);
    EXPECT_EQ(sums[3][i], sums[4][i]) << "what the next stage received is the same on all of its ranks";
    EXPECT_EQ(sums[3][i], sums[5][i]);
  }
}

INSTANTIATE_TEST_SUITE_P(All, ProcessesTest, ::testing::Values(comm::Transport::kShm, comm::Transport::kGloo),
                         [](const auto& info) {
                           return std::string(comm::kTransportNames[static_cast<size_t>(info.param)]);
                         });

}  // namespace
}  // namespace shoal::testing
