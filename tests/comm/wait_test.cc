#include "worker/comm/wait.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "worker/comm/sum.h"

namespace shoal::comm {
namespace {

TEST(WaitTest, SequenceNumbersWrap) {
  EXPECT_TRUE(Reached(5, 5));
  EXPECT_TRUE(Reached(6, 5));
  EXPECT_FALSE(Reached(4, 5));
  EXPECT_TRUE(Reached(1, 0xfffffffeu)) << "three steps later";
  EXPECT_FALSE(Reached(0xfffffffeu, 1));
}

// More ranks than any machine has cores: a wait gives its core away at once, and still sees every number.
TEST(WaitTest, TwoThreadsTakeTurns) {
  for (const int ranks : {2, 1 << 20}) {
    const AbortFlag abort{0};
    Signal ping{}, pong{};
    ping.value = pong.value = 0xffffff00u;  // wraps on the way
    constexpr uint32_t kTurns = 2000;
    std::thread other([&] {
      CommStats stats;
      Waiter waiter(&abort, &stats, ranks);
      for (uint32_t i = 1; i <= kTurns; ++i) {
        if (!waiter.Wait(ping, 0xffffff00u + i, "ping", 0).ok()) return;
        Publish(pong, 0xffffff00u + i);
      }
    });
    CommStats stats;
    Waiter waiter(&abort, &stats, ranks);
    for (uint32_t i = 1; i <= kTurns; ++i) {
      Publish(ping, 0xffffff00u + i);
      ASSERT_TRUE(waiter.Wait(pong, 0xffffff00u + i, "pong", 1).ok());
    }
    other.join();
    EXPECT_EQ(pong.value, 0xffffff00u + kTurns);
    EXPECT_EQ(ping.sleepers + pong.sleepers, 0u);
    EXPECT_GT(stats.waited, 0);
  }
}

TEST(WaitTest, AnAbortEndsItAndNamesWhatWasWaitedFor) {
  const AbortFlag abort{1};
  CommStats stats;
  Waiter waiter(&abort, &stats, 2);
  Signal signal{};
  const absl::Status status = waiter.Wait(signal, 1, "tensor data", 3);
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(status.message(), "aborted while waiting for tensor data of rank 3");
  EXPECT_TRUE(waiter.Wait(signal, 0, "tensor data", 3).ok()) << "what is there needs no wait";
}

// What the agent sees of a rank that waits: for whom, and that it still looks.
TEST(WaitTest, AWaitThatSleepsIsNotedUntilItEnds) {
  const AbortFlag abort{0};
  CommStats stats;
  WaitNote note;
  Waiter waiter(&abort, &stats, 2, &note);
  Signal signal{};
  EXPECT_TRUE(waiter.Wait(signal, 0, "tensor data", 3).ok());
  EXPECT_EQ(note.looks, 0u) << "what is there needs no wait";
  std::thread peer([&] {
    while (note.looks.load() < 3) std::this_thread::yield();
    EXPECT_EQ(note.peer.load(), 4u) << "1 + the rank";
    Publish(signal, 1);
  });
  EXPECT_TRUE(waiter.Wait(signal, 1, "tensor data", 3).ok());
  peer.join();
  EXPECT_EQ(note.peer.load(), 0u);
}

TEST(WaitTest, AnAbortedWaitIsNotedNoMore) {
  const AbortFlag abort{1};
  CommStats stats;
  WaitNote note;
  Waiter waiter(&abort, &stats, 2, &note);
  Signal signal{};
  EXPECT_EQ(waiter.Wait(signal, 1, "tensor data", 3).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(note.looks.load(), 1u);
  EXPECT_EQ(note.peer.load(), 0u);
}

TEST(SumTest, AddsInTheOrderOfTheParts) {
  // (1e8 + 1) - 1e8 is 0 in f32, (1e8 - 1e8) + 1 is 1.
  const std::vector<float> big(3000, 1e8f), one(3000, 1.0f), minus(3000, -1e8f);
  std::vector<float> out(3000);
  SumInOrder(std::vector<const float*>{big.data(), one.data(), minus.data()}, 3000, out.data());
  EXPECT_EQ(out, std::vector<float>(3000, 0.0f));
  SumInOrder(std::vector<const float*>{big.data(), minus.data(), one.data()}, 3000, out.data());
  EXPECT_EQ(out, one);
  SumInOrder(std::vector<const float*>{big.data()}, 3000, out.data());
  EXPECT_EQ(out, big);
}

}  // namespace
}  // namespace shoal::comm
