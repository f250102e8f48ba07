// Sums over peer memory to the bit: ranks are processes (gpu_sum_rank, beside this binary), all on one device, which
// takes them by turns, and on a device each where there are several.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tests/gpu/gpu_plugin.h"
#include "tests/gpu/on_device.h"

namespace shoal::gpu {
namespace {

constexpr int kUnreachable = 4;     // gpu_sum_rank's
constexpr int kPatienceMs = 60000;  // for its device to open

// One rank's process and the ends of its stdin and stdout; killed if it is still there at the end.
class SumRank {
 public:
  SumRank(int device, int rank, int ranks, int rounds, bool timed) {
    int in[2], out[2];
    EXPECT_EQ(::pipe2(in, O_CLOEXEC), 0);
    EXPECT_EQ(::pipe2(out, O_CLOEXEC), 0);
    to_ = in[1];
    from_ = out[0];
    const std::string path = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "gpu_sum_rank";
    std::vector<std::string> words = {path,
                                      std::to_string(device),
                                      std::to_string(rank),
                                      std::to_string(ranks),
                                      std::to_string(rounds),
                                      std::to_string(Seed()),
                                      timed ? "1" : "0"};
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    EXPECT_EQ(posix_spawn(&pid_, path.c_str(), &actions, nullptr, argv.data(), environ), 0) << path;
    posix_spawn_file_actions_destroy(&actions);
    ::close(in[0]);
    ::close(out[1]);
  }
  ~SumRank() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    ::close(to_);
    ::close(from_);
  }
  SumRank(const SumRank&) = delete;
  SumRank& operator=(const SumRank&) = delete;

  // What it offers; empty: it has ended, or says nothing.
  std::string Offer() {
    std::string line;
    for (char c = 0;; line.push_back(c)) {
      pollfd readable = {from_, POLLIN, 0};
      if (::poll(&readable, 1, kPatienceMs) != 1 || ::read(from_, &c, 1) != 1) return "";
      if (c == '\n') break;
    }
    return line.rfind("offer ", 0) == 0 ? line.substr(6) : "";
  }
  void Tell(const std::string& lines) {
    EXPECT_EQ(::write(to_, lines.data(), lines.size()), static_cast<ssize_t>(lines.size()));
  }
  // Its exit code; -1: a signal. What else it says is shown. One that waits for a rank that has failed is killed.
  int Wait() {
    char text[4096];
    for (ssize_t n = 1; n > 0;) {
      pollfd readable = {from_, POLLIN, 0};
      if (::poll(&readable, 1, kPatienceMs) != 1) {
        ::kill(pid_, SIGKILL);
        break;
      }
      n = ::read(from_, text, sizeof text);
      if (n > 0) std::fwrite(text, 1, static_cast<size_t>(n), stdout);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(pid_, &status, 0), pid_);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_ = -1;
  int to_ = -1, from_ = -1;
};

// Their exit codes. devices[r]: of rank r.
std::vector<int> RunRanks(const std::vector<int>& devices, int rounds, bool timed) {
  ::signal(SIGPIPE, SIG_IGN);
  std::vector<std::unique_ptr<SumRank>> ranks;
  const int count = static_cast<int>(devices.size());
  for (int r = 0; r < count; ++r) {
    ranks.push_back(std::make_unique<SumRank>(devices[static_cast<size_t>(r)], r, count, rounds, timed));
  }
  std::string offers;
  for (const auto& rank : ranks) {
    const std::string offer = rank->Offer();
    if (offer.empty()) {
      ADD_FAILURE() << "a rank has offered nothing";
      return {};
    }
    offers += offer + "\n";
  }
  for (const auto& rank : ranks) rank->Tell(offers);
  std::vector<int> codes;
  for (const auto& rank : ranks) codes.push_back(rank->Wait());
  return codes;
}

TEST(GpuAllReduce, RanksOnOneDevice) {
  for (const int ranks : {2, 3, 4}) {
    SCOPED_TRACE(testing::Message() << ranks << " ranks");
    EXPECT_EQ(RunRanks(std::vector<int>(static_cast<size_t>(ranks), 0), Sized(1, 3), /*timed=*/false),
              std::vector<int>(static_cast<size_t>(ranks), 0));
  }
}

TEST(GpuAllReduce, ADeviceForEachRank) {
  const int devices = std::min(DeviceCount(), 8);
  if (devices < 2) GTEST_SKIP() << "there is one device";
  for (int ranks = 2; ranks <= devices; ranks *= 2) {
    SCOPED_TRACE(testing::Message() << ranks << " ranks");
    std::vector<int> own;
    for (int r = 0; r < ranks; ++r) own.push_back(r);
    const std::vector<int> codes = RunRanks(own, Sized(1, 20), /*timed=*/Large());
    if (std::find(codes.begin(), codes.end(), kUnreachable) != codes.end()) {
      GTEST_SKIP() << "these devices do not reach each other's memory; stderr says which";
    }
    EXPECT_EQ(codes, std::vector<int>(static_cast<size_t>(ranks), 0));
  }
}

}  // namespace
}  // namespace shoal::gpu
