#include "kernels/cpu/cpu_stream.h"

#include <gtest/gtest.h>

#include <set>
#include <thread>

#include "kernels/ops/backends.h"

namespace shoal::ops {
namespace {

TEST(CpuStream, RunsEachTaskExactlyOnce) {
  for (const int threads : {1, 2, 3, 5, 9}) {
    const std::unique_ptr<Stream> stream = MakeCpuStream(threads);
    EXPECT_EQ(stream->threads(), threads);
    std::atomic<uint64_t> progress{0};
    stream->progress = &progress;
    uint64_t expected = 0;
    std::vector<int> runs(300);
    for (int round = 0; round < 2000; ++round) {
      const int tasks = round % 7 == 0 ? 300 : round % 11;
      std::fill(runs.begin(), runs.end(), 0);
      ParallelFor(*stream, tasks, [&](int i) { ++runs[static_cast<size_t>(i)]; });
      for (int i = 0; i < 300; ++i) ASSERT_EQ(runs[static_cast<size_t>(i)], i < tasks ? 1 : 0) << "round " << round;
      expected += static_cast<uint64_t>(tasks);
      ASSERT_EQ(progress.load(), expected);
    }
  }
}

// What a task wrote is seen by the caller, and what the caller wrote before is seen by a task, without atomics.
TEST(CpuStream, OrdersMemory) {
  const std::unique_ptr<Stream> stream = MakeCpuStream(3);
  std::vector<uint64_t> cells(8, 1);
  for (int round = 0; round < 5000; ++round) {
    ParallelFor(*stream, 8, [&](int i) { cells[static_cast<size_t>(i)] += cells[static_cast<size_t>(i)] % 3 + 1; });
    for (size_t i = 1; i < cells.size(); ++i) ASSERT_EQ(cells[i], cells[0]);
    for (uint64_t& c : cells) ++c;
  }
  EXPECT_GT(cells[0], 5000u);
}

// One task blocks until another has run: passes only if a second thread takes part, also after the pool went to sleep.
TEST(CpuStream, ThreadsWakeFromSleepAndWorkTogether) {
  const std::unique_ptr<Stream> stream = MakeCpuStream(2);
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> arrived{0};
    std::set<std::thread::id> ids[2];
    ParallelFor(*stream, 2, [&](int i) {
      ids[i].insert(std::this_thread::get_id());
      arrived.fetch_add(1);
      while (arrived.load() < 2) std::this_thread::yield();
    });
    EXPECT_NE(ids[0], ids[1]);
    std::this_thread::sleep_for(std::chrono::microseconds(200));  // past the spin; right in either state
  }
}

// A thread that holds one task long does not keep the others from the rest.
TEST(CpuStream, SlowTaskHoldsUpOnlyItself) {
  const std::unique_ptr<Stream> stream = MakeCpuStream(2);
  std::atomic<int> others{0};
  ParallelFor(*stream, 50, [&](int i) {
    if (i == 0) {
      while (others.load() < 49) std::this_thread::yield();
    } else {
      others.fetch_add(1);
    }
  });
  EXPECT_EQ(others.load(), 49);
}

// More threads than cores, several pools at once, as ranks on a small machine.
TEST(CpuStream, ManyPoolsAtOnceMakeProgress) {
  std::vector<std::thread> owners;
  std::atomic<int> total{0};
  for (int p = 0; p < 4; ++p) {
    owners.emplace_back([&] {
      const std::unique_ptr<Stream> stream = MakeCpuStream(4);
      for (int round = 0; round < 300; ++round) ParallelFor(*stream, 5, [&](int) { total.fetch_add(1); });
    });
  }
  for (std::thread& t : owners) t.join();
  EXPECT_EQ(total.load(), 4 * 300 * 5);
}

}  // namespace
}  // namespace shoal::ops
