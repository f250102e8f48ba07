// The small ones: clock, check, checksum, status macros, mutex, futex.
#include <gtest/gtest.h>

#include <set>
#include <thread>
#include <vector>

#include "common/base/build_id.h"
#include "common/base/check.h"
#include "common/base/checksum.h"
#include "common/base/clock.h"
#include "common/base/futex.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"

namespace shoal {
namespace {

TEST(Clock, RealTimeNeverGoesBack) {
  RealClock clock;
  TimeNs last = clock.Now();
  for (int i = 0; i < 1000; ++i) {
    const TimeNs now = clock.Now();
    ASSERT_GE(now, last);
    last = now;
  }
}

TEST(Clock, SimulatedTimeMovesOnlyWhenTold) {
  SimClock clock;
  EXPECT_EQ(clock.Now(), 0);
  clock.AdvanceTo(5 * kSecond);
  EXPECT_EQ(clock.Now(), 5 * kSecond);
}

TEST(BuildId, IsTheVersionAndTheLinkersHash) {
  const std::string id = BuildId();
  EXPECT_EQ(id.rfind(std::string(kVersion) + "+", 0), 0u) << id;
  EXPECT_EQ(id.size(), kVersion.size() + 1 + 12) << id;
  EXPECT_EQ(id, BuildId());
}

TEST(Check, SaysWhatFailed) { EXPECT_DEATH(SHOAL_CHECK(1 + 1 == 3), "base_test.cc.*1 \\+ 1 == 3"); }

absl::StatusOr<int> Half(int n) {
  if (n % 2 != 0) return absl::InvalidArgumentError("odd");
  return n / 2;
}
absl::Status Quarter(int n, int* out) {
  SHOAL_ASSIGN_OR_RETURN(const int half, Half(n));
  SHOAL_ASSIGN_OR_RETURN(*out, Half(half));
  return absl::OkStatus();
}

TEST(StatusMacros, PassValuesAndErrors) {
  int out = 0;
  EXPECT_TRUE(Quarter(12, &out).ok());
  EXPECT_EQ(out, 3);
  EXPECT_EQ(Quarter(6, &out).message(), "odd");
}

TEST(Mutex, CondVarHandsOverUnderTheLock) {
  Mutex mutex;
  CondVar changed;
  int turn = 0;
  std::thread other([&] {
    MutexLock lock(mutex);
    while (turn != 1) changed.Wait(mutex);
    turn = 2;
    changed.NotifyAll();
  });
  {
    MutexLock lock(mutex);
    turn = 1;
    changed.NotifyAll();
    while (turn != 2) changed.Wait(mutex);
    EXPECT_FALSE(changed.WaitFor(mutex, std::chrono::nanoseconds(1)) && turn != 2);
  }
  other.join();
  EXPECT_EQ(turn, 2);
}

TEST(Futex, WaitReturnsWhenTheWordDiffersOrTimePasses) {
  std::atomic<uint32_t> word{1};
  FutexWait(&word, 0, -1);  // differs already: must not sleep
  FutexWait(&word, 1, kMillisecond);
  std::thread waker([&] {
    word.store(2);
    FutexWakeAll(&word);
  });
  while (word.load() == 1) FutexWait(&word, 1, -1);
  waker.join();
  EXPECT_EQ(word.load(), 2u);
}

TEST(Futex, ThreadsOfOneProcessMeetInThePrivateScope) {
  std::atomic<uint32_t> word{1};
  std::thread waker([&] {
    word.store(2);
    FutexWake(&word, 1, FutexScope::kPrivate);
  });
  while (word.load() == 1) FutexWait(&word, 1, -1, FutexScope::kPrivate);
  waker.join();
  EXPECT_EQ(word.load(), 2u);
}

TEST(Checksum, EveryBitEveryPlaceAndTheSeedCount) {
  // Whole rounds of lanes, and what is left over.
  for (const size_t size : {0, 1, 7, 8, 31, 32, 64, 69}) {
    std::vector<std::byte> bytes(size, std::byte{0x5a});
    std::set<uint64_t> seen = {Checksum64(bytes, 1), Checksum64(bytes, 2)};
    for (size_t bit = 0; bit < size * 8; ++bit) {
      bytes[bit / 8] ^= std::byte{1} << bit % 8;
      EXPECT_TRUE(seen.insert(Checksum64(bytes, 1)).second) << size << " bytes, bit " << bit;
      bytes[bit / 8] ^= std::byte{1} << bit % 8;
    }
    EXPECT_EQ(Checksum64(bytes, 1), Checksum64(bytes, 1));
    bytes.push_back(std::byte{0});
    EXPECT_TRUE(seen.insert(Checksum64(bytes, 1)).second) << "a zero more";
  }
  std::vector<std::byte> bytes(64, std::byte{0});
  bytes[0] = std::byte{1};
  const uint64_t first = Checksum64(bytes, 0);
  std::swap(bytes[0], bytes[32]);  // the same lane
  EXPECT_NE(first, Checksum64(bytes, 0));
  std::swap(bytes[32], bytes[8]);  // another lane
  EXPECT_NE(first, Checksum64(bytes, 0));
}

}  // namespace
}  // namespace shoal
