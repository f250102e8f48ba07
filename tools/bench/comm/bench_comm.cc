// Time of one all-reduce: over shared memory with ranks as threads, `bench_comm [RANKS [REPEATS]]`, or over Gloo on
// loopback with ranks as processes, `bench_comm gloo [RANKS [REPEATS]]`. Prints the median and the 99th percentile of
// rank 0 for several sizes, the bytes that a rank puts on the wire, and for the size that has one the budget.
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "worker/comm/gloo.h"
#include "worker/comm/shm.h"

namespace shoal::comm {
namespace {

// Timed together: within two operations a rank may find its peers ahead and not wait at all.
constexpr int kWindow = 10;

// The budget of an all-reduce of 8 KiB between two ranks, median.
constexpr size_t kBudgetKib = 8;
constexpr double kBudgetUs = 5;

// The processor's name, as the kernel tells it.
std::string Processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown processor";
}

struct Figures {
  double median_us, p99_us;
  int64_t bytes;
};

// Rank r on core r, round and round: a scheduler that packs both ranks on one core measures only itself.
void Pin(int r) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(r % std::thread::hardware_concurrency(), &set);
  sched_setaffinity(0, sizeof(set), &set);
}

// What rank 0 sees of `repeats` windows.
Figures Repeat(RankComm& comm, int r, size_t floats, int repeats, Transport transport) {
  const RealClock clock;
  std::vector<float> data(floats, 1.0f);
  std::vector<TimeNs> times(repeats);
  const int64_t before = comm.stats->over(transport).tensor;
  for (TimeNs& time : times) {
    const TimeNs begin = clock.Now();
    for (int k = 0; k < kWindow; ++k) {
      if (!comm.tensor->AllReduceSum(data).ok()) std::abort();
    }
    time = (clock.Now() - begin) / kWindow;
  }
  if (r != 0) return {};
  std::sort(times.begin(), times.end());
  return {1e-3 * static_cast<double>(times[repeats / 2]), 1e-3 * static_cast<double>(times[repeats * 99 / 100]),
          (comm.stats->over(transport).tensor - before) / repeats / kWindow};
}

GroupShape Shape(int ranks) { return {.tp = ranks, .pp = 1, .max_activation_bytes = 1 << 20, .max_samples = 1}; }

Figures MeasureShm(int ranks, size_t floats, int repeats) {
  const size_t bytes = ShmSegmentBytes(Shape(ranks));
  const std::unique_ptr<void, decltype(&std::free)> segment(std::aligned_alloc(64, bytes), &std::free);
  std::memset(segment.get(), 0, bytes);
  const AbortFlag abort{0};
  Figures figures = {};
  const auto run = [&](int r) {
    Pin(r);
    auto comm = MakeShmRank(Shape(ranks), r, 1, {static_cast<std::byte*>(segment.get()), bytes}, &abort);
    if (!comm.ok()) std::abort();
    const Figures mine = Repeat(*comm, r, floats, repeats, Transport::kShm);
    if (r == 0) figures = mine;
  };
  std::vector<std::thread> threads;
  for (int r = 1; r < ranks; ++r) threads.emplace_back(run, r);
  run(0);
  for (auto& t : threads) t.join();
  return figures;
}

// Pipes of whole messages, each far below what a pipe takes at once.
std::string ReadPipe(int fd) {
  std::string message(4096, 0);
  const ssize_t n = read(fd, message.data(), message.size());
  if (n <= 0) std::abort();
  message.resize(n);
  return message;
}
void WritePipe(int fd, const std::string& message) {
  if (write(fd, message.data(), message.size()) != static_cast<ssize_t>(message.size())) std::abort();
}

// Rank 0 is this process, the others are children, made before anybody has a thread.
Figures MeasureGloo(int ranks, size_t floats, int repeats) {
  std::signal(SIGPIPE, SIG_IGN);
  std::vector<std::array<int, 2>> up(ranks), down(ranks);
  int rank = 0;
  for (int r = 1; r < ranks && rank == 0; ++r) {
    if (pipe(up[r].data()) != 0 || pipe(down[r].data()) != 0) std::abort();
    if (fork() == 0) rank = r;
  }
  const AbortFlag abort{0};
  const auto listener = GlooListener::Listen(Shape(ranks), rank, 1, "127.0.0.1", &abort);
  if (!listener.ok()) std::abort();
  std::vector<std::string> addresses = {(*listener)->address()};
  if (rank == 0) {
    for (int r = 1; r < ranks; ++r) addresses.push_back(ReadPipe(up[r][0]));
    for (int r = 1; r < ranks; ++r) WritePipe(down[r][1], absl::StrJoin(addresses, "\n"));
  } else {
    WritePipe(up[rank][1], addresses[0]);
    addresses = absl::StrSplit(ReadPipe(down[rank][0]), '\n');
  }
  auto comm = (*listener)->Connect(addresses, 10 * kSecond);
  if (!comm.ok()) std::abort();
  const Figures figures = Repeat(*comm, rank, floats, repeats, Transport::kGloo);
  if (rank != 0) _exit(0);
  for (int r = 1; r < ranks; ++r) {
    wait(nullptr);
    for (const int fd : {up[r][0], up[r][1], down[r][0], down[r][1]}) close(fd);
  }
  return figures;
}

}  // namespace
}  // namespace shoal::comm

int main(int argc, char** argv) {
  const bool gloo = argc > 1 && std::string(argv[1]) == "gloo";
  if (gloo) --argc, ++argv;
  const int ranks = argc > 1 ? std::atoi(argv[1]) : 2;
  const int repeats = argc > 2 ? std::atoi(argv[2]) : 2000;
  std::printf("all-reduce over %s, %d ranks, %d windows; %s, %u cores\n", gloo ? "gloo (loopback)" : "shm", ranks,
              repeats, shoal::comm::Processor().c_str(), std::thread::hardware_concurrency());
  std::printf("%10s %12s %12s %14s\n", "KiB", "median us", "p99 us", "bytes sent");
  for (size_t kib : {1, 2, 8, 16, 32, 128, 1024}) {
    std::fflush(stdout);  // children must not have it too
    const auto measure = gloo ? shoal::comm::MeasureGloo : shoal::comm::MeasureShm;
    const auto f = measure(ranks, kib * 256, repeats / (kib > 32 ? 10 : 1));
    std::printf("%10zu %12.2f %12.2f %14lld", kib, f.median_us, f.p99_us, static_cast<long long>(f.bytes));
    const bool limited = kib == shoal::comm::kBudgetKib && ranks == 2 && !gloo;
    if (limited)
      std::printf("   at most %.0f us wanted: %.2f of it", shoal::comm::kBudgetUs,
                  f.median_us / shoal::comm::kBudgetUs);
    std::printf("\n");
  }
  return 0;
}
