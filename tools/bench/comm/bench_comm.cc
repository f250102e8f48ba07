// Time of one all-reduce over shared memory, ranks as threads: `bench_comm [RANKS [REPEATS]]`.
// Prints the median and the 99th percentile of rank 0 for several sizes, the bytes that a rank puts on the wire, and
// for the size that has one the budget.
#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <thread>

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

Figures Measure(int ranks, size_t floats, int repeats) {
  const GroupShape shape = {.tp = ranks, .pp = 1, .max_activation_bytes = 1 << 20, .max_samples = 1};
  const size_t bytes = ShmSegmentBytes(shape);
  const std::unique_ptr<void, decltype(&std::free)> segment(std::aligned_alloc(64, bytes), &std::free);
  std::memset(segment.get(), 0, bytes);
  const AbortFlag abort{0};
  std::vector<TimeNs> times(repeats);
  int64_t sent = 0;
  const auto run = [&](int r) {
    Pin(r);
    auto comm = MakeShmRank(shape, r, 1, {static_cast<std::byte*>(segment.get()), bytes}, &abort);
    if (!comm.ok()) std::abort();
    const RealClock clock;
    std::vector<float> data(floats, 1.0f);
    for (int i = 0; i < repeats; ++i) {
      const TimeNs begin = clock.Now();
      for (int k = 0; k < kWindow; ++k) {
        if (!comm->tensor->AllReduceSum(data).ok()) std::abort();
      }
      if (r == 0) times[i] = (clock.Now() - begin) / kWindow;
    }
    if (r == 0) sent = comm->stats->over(Transport::kShm).tensor / repeats / kWindow;
  };
  std::vector<std::thread> threads;
  for (int r = 1; r < ranks; ++r) threads.emplace_back(run, r);
  run(0);
  for (auto& t : threads) t.join();
  std::sort(times.begin(), times.end());
  return {1e-3 * static_cast<double>(times[repeats / 2]), 1e-3 * static_cast<double>(times[repeats * 99 / 100]), sent};
}

}  // namespace
}  // namespace shoal::comm

int main(int argc, char** argv) {
  const int ranks = argc > 1 ? std::atoi(argv[1]) : 2;
  const int repeats = argc > 2 ? std::atoi(argv[2]) : 2000;
  std::printf("%s %d %d: all-reduce over shm, %d ranks, %d windows; %s, %u cores\n", argv[0], ranks, repeats, ranks,
              repeats, shoal::comm::Processor().c_str(), std::thread::hardware_concurrency());
  std::printf("%10s %12s %12s %14s\n", "KiB", "median us", "p99 us", "bytes sent");
  for (size_t kib : {1, 2, 8, 16, 32, 128, 1024}) {
    const auto f = shoal::comm::Measure(ranks, kib * 256, repeats / (kib > 32 ? 10 : 1));
    std::printf("%10zu %12.2f %12.2f %14lld", kib, f.median_us, f.p99_us, static_cast<long long>(f.bytes));
    const bool limited = kib == shoal::comm::kBudgetKib && ranks == 2;
    if (limited)
      std::printf("   at most %.0f us wanted: %.2f of it", shoal::comm::kBudgetUs,
                  f.median_us / shoal::comm::kBudgetUs);
    std::printf("\n");
  }
  return 0;
}
