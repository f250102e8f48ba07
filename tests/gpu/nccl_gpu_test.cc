// The channels over NCCL between processes that share the suite's device, which NCCL takes for processes of different
// hosts: what they carry, to the bit. Never how fast.
// A rank is this program again: RunNcclRank. It writes its address to stdout and reads those of all from stdin, a line
// each.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/dtype.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"
#include "tests/comm/nccl_group.h"
#include "tests/gpu/gpu_plugin.h"
#include "tests/gpu/nccl_rank.h"
#include "worker/comm/nccl.h"
#include "worker/comm/nccl_plugin.h"
#include "worker/device/cuda_plugin.h"

extern char** environ;

namespace shoal::comm {
namespace {

// Of a rank, from its start: above the time that it may take to connect. A rank that waits for ever ends by SIGALRM.
constexpr unsigned kRankSeconds = 45;
constexpr DurationNs kConnectTimeout = 30 * kSecond;

struct Rank {
  GroupShape shape;
  int rank;
  ops::Accelerator& accelerator;
  RankComm& comm;
  int stage() const { return rank / shape.tp; }
  int tensor() const { return rank % shape.tp; }
};

// What rank `r` of a stage adds: numbers that bf16 has, of many sizes, whose sums depend on their order.
float Term(int r, int64_t i) {
  const uint64_t bits = RandomBits(11, r, i);
  const float mantissa = static_cast<float>(bits & 0xff) - 127.5f;
  return BF16ToF32(F32ToBF16(std::ldexp(mantissa, static_cast<int>(bits >> 8 & 15) - 8)));
}

absl::Status SumsInRankOrder(Rank& r) {
  RankComm host = OnHost(r.comm, r.accelerator);
  for (const size_t count : {size_t{8}, size_t{1000}, size_t{300008}}) {  // the last in two shots
    std::vector<float> data(count), expected(count);
    for (size_t i = 0; i < count; ++i) {
      data[i] = Term(r.tensor(), static_cast<int64_t>(i));
      float sum = 0;
      for (int t = 0; t < r.shape.tp; ++t) sum += Term(t, static_cast<int64_t>(i));
      expected[i] = r.shape.tp == 1 ? data[i] : BF16ToF32(F32ToBF16(sum));
    }
    SHOAL_RETURN_IF_ERROR(host.tensor->AllReduceSum(data));
    for (size_t i = 0; i < count; ++i) {
      if (data[i] == expected[i]) continue;
      return absl::DataLossError(absl::StrCat("element ", i, " of ", count, " is ", data[i], ", not ", expected[i]));
    }
  }
  return absl::OkStatus();
}

absl::Status GathersColumns(Rank& r) {
  RankComm host = OnHost(r.comm, r.accelerator);
  constexpr int kRows = 3;
  std::vector<int32_t> widths;
  int total = 0;
  for (int t = 0; t < r.shape.tp; ++t) total += widths.emplace_back(5 + 3 * t);
  const std::vector<float> part(static_cast<size_t>(kRows * widths[r.tensor()]), static_cast<float>(r.tensor() + 1));
  std::vector<float> whole(static_cast<size_t>(kRows * total), -1);
  SHOAL_RETURN_IF_ERROR(host.tensor->GatherColumns(part, kRows, widths, whole.data(), total));
  if (r.tensor() != 0) return absl::OkStatus();
  for (int row = 0, i = 0; row < kRows; ++row) {
    for (int t = 0; t < r.shape.tp; ++t) {
      for (int c = 0; c < widths[t]; ++c, ++i) {
        if (whole[i] != static_cast<float>(t + 1))
          return absl::DataLossError(absl::StrCat("column ", i, " of another rank"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CarriesActivationsAndTokens(Rank& r) {
  RankComm host = OnHost(r.comm, r.accelerator);
  for (int step = 1; step <= 20; ++step) {
    const std::vector<std::byte> sent(static_cast<size_t>(200 * step), static_cast<std::byte>(step + 7 * r.tensor()));
    if (host.previous != nullptr) {
      std::vector<std::byte> received(sent.size());
      SHOAL_RETURN_IF_ERROR(host.previous->Receive(received));
      if (received != sent) return absl::DataLossError(absl::StrCat("other activations in step ", step));
    }
    if (host.next != nullptr) SHOAL_RETURN_IF_ERROR(host.next->Send(sent));
    const std::vector<int32_t> tokens = {step, step + 1, 1000 * step};
    if (host.mailbox_out != nullptr) SHOAL_RETURN_IF_ERROR(host.mailbox_out->Post(static_cast<uint64_t>(step), tokens));
    if (host.mailbox_in == nullptr) continue;
    std::vector<int32_t> taken(tokens.size());
    SHOAL_RETURN_IF_ERROR(host.mailbox_in->Take(static_cast<uint64_t>(step), taken));
    if (taken != tokens) return absl::DataLossError(absl::StrCat("other tokens in step ", step));
  }
  return absl::OkStatus();
}

// Each launch sums what the last one has left: 1 becomes tp, tp^2, ...
absl::Status RunsInGraphs(Rank& r) {
  constexpr int kCount = 64, kLaunches = 5;
  ops::Accelerator& device = r.accelerator;
  constexpr size_t kBytes = kCount * sizeof(uint16_t);
  SHOAL_ASSIGN_OR_RETURN(void* const data, device.Allocate(kBytes));
  SHOAL_ASSIGN_OR_RETURN(void* const pinned, device.AllocatePinned(kBytes));
  auto* const half = static_cast<uint16_t*>(pinned);
  std::fill(half, half + kCount, F32ToBF16(1.0f));
  SHOAL_RETURN_IF_ERROR(device.CopyIn(data, pinned, kBytes));
  SHOAL_RETURN_IF_ERROR(AwaitDevice(r.comm, device));
  SHOAL_RETURN_IF_ERROR(device.BeginCapture());
  const absl::Status summed = r.comm.tensor->AllReduceSum(ops::Acts(data), kCount);
  SHOAL_ASSIGN_OR_RETURN(const auto graph, device.EndCapture());
  SHOAL_RETURN_IF_ERROR(summed);
  for (int i = 0; i < kLaunches; ++i) SHOAL_RETURN_IF_ERROR(device.Launch(*graph));
  SHOAL_RETURN_IF_ERROR(device.CopyOut(pinned, data, kBytes));
  SHOAL_RETURN_IF_ERROR(AwaitDevice(r.comm, device));
  float expected = 1;
  for (int i = 0; i < kLaunches; ++i) expected *= static_cast<float>(r.shape.tp);
  const bool good = std::all_of(half, half + kCount, [&](uint16_t x) { return BF16ToF32(x) == expected; });
  device.Free(data);
  device.FreePinned(pinned);
  return good ? absl::OkStatus() : absl::DataLossError(absl::StrCat(BF16ToF32(half[0]), " is not ", expected));
}

absl::Status RunRank(const GroupShape& shape, int rank) {
  SHOAL_ASSIGN_OR_RETURN(const auto accelerator, gpu::OpenAccelerator());
  SHOAL_ASSIGN_OR_RETURN(NcclApi* const api, NcclOfPlugin(device::CudaPluginPath()));
  const AbortFlag abort{0};
  SHOAL_ASSIGN_OR_RETURN(const auto rendezvous, NcclRendezvous::Open({.api = api,
                                                                      .accelerator = accelerator.get(),
                                                                      .shape = shape,
                                                                      .rank = rank,
                                                                      .generation = 3,
                                                                      .abort = &abort}));
  std::cout << rendezvous->address() << std::endl;
  std::vector<std::string> addresses(static_cast<size_t>(shape.tp * shape.pp));
  for (std::string& address : addresses) std::getline(std::cin, address);
  SHOAL_ASSIGN_OR_RETURN(RankComm comm, rendezvous->Connect(addresses, kConnectTimeout));
  Rank r = {shape, rank, *accelerator, comm};
  const std::pair<const char*, absl::Status (*)(Rank&)> cases[] = {
      {"sums", SumsInRankOrder},
      {"columns", GathersColumns},
      {"activations and tokens", CarriesActivationsAndTokens},
      {"graphs", RunsInGraphs}};
  for (const auto& [name, run] : cases) {
    const absl::Status status = run(r);
    if (!status.ok()) return absl::Status(status.code(), absl::StrCat(name, ": ", status.message()));
  }
  // What it has sent last may still be under way: who goes takes that with it.
  std::cout << "done" << std::endl;
  std::string all_are_done;
  std::getline(std::cin, all_are_done);
  return absl::OkStatus();
}

// ---- the test, which starts the ranks

// A rank's process, with its ends of two pipes.
struct Process {
  pid_t pid = -1;
  FILE *to = nullptr, *from = nullptr;
};

Process Start(int tp, int pp, int rank) {
  int in[2], out[2];
  EXPECT_EQ(::pipe2(in, O_CLOEXEC), 0);
  EXPECT_EQ(::pipe2(out, O_CLOEXEC), 0);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  std::vector<std::string> words = {"/proc/self/exe", std::string(gpu::kNcclRank), absl::StrCat(tp), absl::StrCat(pp),
                                    absl::StrCat(rank)};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::string host = absl::StrCat("NCCL_HOSTID=", ::getpid(), "-rank", rank);
  std::vector<char*> environment = {host.data()};
  for (char** e = environ; *e != nullptr; ++e) {
    if (std::strncmp(*e, "NCCL_HOSTID=", 12) != 0) environment.push_back(*e);
  }
  environment.push_back(nullptr);
  Process process;
  EXPECT_EQ(::posix_spawn(&process.pid, argv[0], &actions, nullptr, argv.data(), environment.data()), 0);
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(in[0]);
  ::close(out[1]);
  process.to = ::fdopen(in[1], "w");
  process.from = ::fdopen(out[0], "r");
  return process;
}

std::string ReadLine(FILE* from) {
  std::string line;
  for (int c = std::fgetc(from); c != EOF; c = std::fgetc(from)) {
    line.push_back(static_cast<char>(c));
    if (c == '\n') break;
  }
  return line;
}

class NcclOnOneDevice : public ::testing::TestWithParam<std::pair<int, int>> {};

TEST_P(NcclOnOneDevice, AllChannelsCarryWhatTheyShould) {
  std::signal(SIGPIPE, SIG_IGN);  // a rank that ends early is told of below
  const auto [tp, pp] = GetParam();
  std::vector<Process> ranks;
  for (int r = 0; r < tp * pp; ++r) ranks.push_back(Start(tp, pp, r));
  std::string addresses;
  for (const Process& rank : ranks) addresses += ReadLine(rank.from);
  for (const Process& rank : ranks) {
    std::fputs(addresses.c_str(), rank.to);
    std::fflush(rank.to);
  }
  for (const Process& rank : ranks) ReadLine(rank.from);  // that it is done; nothing when it has failed
  for (const Process& rank : ranks) std::fclose(rank.to);
  for (size_t r = 0; r < ranks.size(); ++r) {
    int status = 0;
    ASSERT_EQ(::waitpid(ranks[r].pid, &status, 0), ranks[r].pid);
    EXPECT_EQ(status, 0) << "rank " << r;
    std::fclose(ranks[r].from);
  }
}

INSTANTIATE_TEST_SUITE_P(TpPp, NcclOnOneDevice,
                         ::testing::Values(std::pair(2, 1), std::pair(3, 1), std::pair(4, 1), std::pair(2, 2),
                                           std::pair(1, 3)),
                         [](const auto& info) { return absl::StrCat(info.param.first, "x", info.param.second); });

}  // namespace
}  // namespace shoal::comm

namespace shoal::gpu {

int RunNcclRank(int argc, char** argv) {
  if (argc != 5) return 2;
  std::signal(SIGPIPE, SIG_IGN);
  ::alarm(comm::kRankSeconds);
  const comm::GroupShape shape = {.tp = std::atoi(argv[2]),
                                  .pp = std::atoi(argv[3]),
                                  .max_activation_bytes = 4096,
                                  .max_samples = 3,
                                  .mailbox_slots = 4};
  const absl::Status status = comm::RunRank(shape, std::atoi(argv[4]));
  if (!status.ok()) std::fprintf(stderr, "rank %s: %s\n", argv[4], status.ToString().c_str());
  return status.ok() ? 0 : 1;
}

}  // namespace shoal::gpu
