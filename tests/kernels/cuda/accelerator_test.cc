// The emulated accelerator: what every one promises (accelerator_contract.cc), and what it alone does so that mistakes
// of its user show.
#include "kernels/cuda/emulated/accelerator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "kernels/cuda/lang.h"
#include "kernels/cuda/queue_stream.h"
#include "kernels/cuda/table.h"
#include "tests/kernels/cuda/accelerator_contract.h"

namespace shoal::cuda {
namespace {

using emulated::Pace;
using ::testing::HasSubstr;

std::unique_ptr<ops::Accelerator> Make(Pace pace, size_t memory_bytes = size_t{1} << 30, int device = 0) {
  return MakeEmulatedAccelerator(
      {.table = &Table(), .device = device, .multiprocessors = 3, .memory_bytes = memory_bytes, .pace = pace});
}

INSTANTIATE_TEST_SUITE_P(Emulated, AcceleratorContract,
                         ::testing::Values(AcceleratorKind{"eager", [] { return Make(Pace::kEager); },
                                                           ACCELERATOR_PEER},
                                           AcceleratorKind{"lazy", [] { return Make(Pace::kLazy); }, ACCELERATOR_PEER}),
                         [](const auto& kind) { return kind.param.name; });

DeviceStream QueueOf(ops::Accelerator& a) { return static_cast<DeviceStream>(a.native_stream()); }

// to[i] = from[i] + add, by two warps that wait for each other.
void AddKernel(int* to, const int* from, int add) {
  struct Numbers {
    int of[64];
  };
  Numbers& shared = Shared<Numbers>();
  const int i = static_cast<int>(threadIdx.x);
  shared.of[63 - i] = from[63 - i] + add;
  __syncthreads();
  to[i] = shared.of[i];
}

absl::Status Add(ops::Accelerator& a, int* to, const int* from, int add) {
  return Launch(QueueOf(a), "add", {dim3{1}, dim3{64}, 64 * sizeof(int)}, AddKernel, to, from, add);
}

// 64 numbers on the device, and in pinned memory beside them.
struct Numbers {
  explicit Numbers(ops::Accelerator& of)
      : a(of), device(of, Piece::kDevice, 64 * sizeof(int)), pinned(of, Piece::kPinned, 64 * sizeof(int)) {}
  int* on_device() const { return reinterpret_cast<int*>(device.data()); }
  int* on_host() const { return reinterpret_cast<int*>(pinned.data()); }
  absl::Status In() { return a.CopyIn(device.data(), pinned.data(), device.size()); }
  absl::Status Out() { return a.CopyOut(pinned.data(), device.data(), device.size()); }

  ops::Accelerator& a;
  Piece device, pinned;
};

TEST(EmulatedAccelerator, KernelsRunInOrderWithTheirArgumentsOfThen) {
  for (const Pace pace : {Pace::kEager, Pace::kLazy}) {
    const auto a = Make(pace);
    EXPECT_EQ(a->stream().threads(), 3);
    EXPECT_EQ(static_cast<QueueStream&>(a->stream()).queue(), QueueOf(*a));
    Numbers x(*a), y(*a);
    for (int i = 0; i < 64; ++i) x.on_host()[i] = i;
    ASSERT_TRUE(x.In().ok());
    for (int add = 1; add <= 10; ++add) {
      ASSERT_TRUE(Add(*a, y.on_device(), x.on_device(), add).ok());
      ASSERT_TRUE(Add(*a, x.on_device(), y.on_device(), 0).ok());
    }
    ASSERT_TRUE(x.Out().ok());
    ASSERT_TRUE(a->Synchronise().ok());
    for (int i = 0; i < 64; ++i) EXPECT_EQ(x.on_host()[i], i + 55);
  }
}

TEST(EmulatedAccelerator, LazyWorkSeesPinnedMemoryThatChangedTooEarly) {
  const auto a = Make(Pace::kLazy);
  Numbers x(*a);
  x.pinned.Set(1);
  ASSERT_TRUE(x.In().ok());
  x.pinned.Set(2);  // before any mark behind the copy was reached
  ASSERT_TRUE(x.Out().ok());
  ASSERT_TRUE(a->Synchronise().ok());
  EXPECT_TRUE(x.pinned.Is(2));
}

TEST(EmulatedAccelerator, LazyWorkRunsUpToTheMarkThatIsAskedFor) {
  const auto a = Make(Pace::kLazy);
  Numbers x(*a);
  ASSERT_TRUE(a->Fill(x.device.data(), 1, x.device.size()).ok());
  ASSERT_TRUE(x.Out().ok());
  const uint64_t first = a->Mark().value();
  ASSERT_TRUE(a->Fill(x.device.data(), 2, x.device.size()).ok());
  ASSERT_TRUE(x.Out().ok());
  const uint64_t second = a->Mark().value();
  EXPECT_TRUE(x.pinned.Is(0xff)) << "nobody asked";
  while (!a->Reached(first).value()) std::this_thread::yield();
  EXPECT_TRUE(x.pinned.Is(1));
  EXPECT_FALSE(a->Reached(second).value() && x.pinned.Is(1)) << "reached, and not done";
  ASSERT_TRUE(a->Synchronise().ok());
  EXPECT_TRUE(x.pinned.Is(2));
}

TEST(EmulatedAccelerator, WhatIsUnderWayRunsBeforeItGoes) {
  std::atomic<int> ran = 0;
  for (const Pace pace : {Pace::kEager, Pace::kLazy}) {
    const auto a = Make(pace);
    for (int i = 0; i < 5; ++i) {
      ASSERT_TRUE(QueueOf(*a)->Enqueue("count", [&] { return ++ran, absl::OkStatus(); }).ok());
    }
  }
  EXPECT_EQ(ran, 10);
}

TEST(EmulatedAccelerator, FreshMemoryIsNoNumber) {
  const auto a = Make(Pace::kEager);
  Numbers x(*a);
  EXPECT_TRUE(x.pinned.Is(0xff));
  x.pinned.Set(0);
  ASSERT_TRUE(x.Out().ok());
  ASSERT_TRUE(a->Synchronise().ok());
  EXPECT_TRUE(x.pinned.Is(0xff));
}

// ---- mistakes

void ExpectFailed(ops::Accelerator& a, const std::string& says) {
  for (const absl::Status& failed :
       {a.Synchronise(), a.Mark().status(), a.Reached(0).status(), a.Allocate(1).status(), a.AllocatePinned(1).status(),
        a.Memory().status(), a.CreateShared(1).status(), a.MapShared(0, 1).status(), a.BeginCapture(),
        a.EndCapture().status(), a.CopyIn(nullptr, nullptr, 0), a.CopyOut(nullptr, nullptr, 1),
        a.Copy(nullptr, nullptr, 1), a.Fill(nullptr, 0, 1), Add(a, nullptr, nullptr, 0)}) {
    EXPECT_EQ(failed.code(), absl::StatusCode::kInternal) << failed;
    EXPECT_THAT(std::string(failed.message()), HasSubstr(says));
  }
}

TEST(EmulatedAccelerator, TheHostsSideOfACopyMustBePinned) {
  std::vector<std::byte> heap(64 * sizeof(int));
  const auto in = Make(Pace::kEager);
  const Numbers x(*in);
  EXPECT_EQ(in->CopyIn(x.device.data(), heap.data(), heap.size()).code(), absl::StatusCode::kInternal);
  ExpectFailed(*in, "copy in: 256 bytes on the host's side are not in pinned memory");
  const auto out = Make(Pace::kEager);
  const Numbers y(*out);
  EXPECT_EQ(out->CopyOut(y.pinned.data() + 1, y.device.data(), 256).code(), absl::StatusCode::kInternal) << "beyond it";
  ExpectFailed(*out, "copy out: 256 bytes on the host's side are not in pinned memory");
}

TEST(EmulatedAccelerator, TheDevicesSideOfACopyMustBeItsOwn) {
  const auto other = Make(Pace::kEager);
  const Numbers others(*other);
  const std::function<absl::Status(ops::Accelerator&, const Numbers&)> wrong[] = {
      [&](ops::Accelerator& a, const Numbers& x) { return a.CopyIn(x.pinned.data(), x.pinned.data(), 9); },
      [&](ops::Accelerator& a, const Numbers& x) { return a.CopyOut(x.pinned.data(), others.device.data(), 9); },
      [&](ops::Accelerator& a, const Numbers& x) { return a.Copy(x.device.data() + 250, x.device.data(), 9); },
      [&](ops::Accelerator& a, const Numbers& x) { return a.Copy(x.device.data(), x.pinned.data(), 9); },
      [&](ops::Accelerator& a, const Numbers&) { return a.Fill(others.device.data(), 0, 9); }};
  for (const auto& copy : wrong) {
    const auto a = Make(Pace::kEager);
    const Numbers x(*a);
    EXPECT_EQ(copy(*a, x).code(), absl::StatusCode::kInternal);
    ExpectFailed(*a, "9 bytes on the device's side are not in its memory");
  }
}

TEST(EmulatedAccelerator, PinnedMemoryFreedBeforeItsCopyRanIsAnError) {
  const auto a = Make(Pace::kLazy);
  const Piece memory(*a, Piece::kDevice, 100);
  {
    const Piece pinned(*a, Piece::kPinned, 100);
    ASSERT_TRUE(a->CopyIn(memory.data(), pinned.data(), 100).ok());
  }
  EXPECT_EQ(a->Synchronise().code(), absl::StatusCode::kInternal);
  ExpectFailed(*a, "copy in: 100 bytes on the host's side are not in pinned memory");
}

TEST(EmulatedAccelerator, AWriteToFreedMemoryIsAnError) {
  const auto a = Make(Pace::kLazy);
  const Numbers from(*a);
  {
    const Numbers gone(*a);
    ASSERT_TRUE(Add(*a, gone.on_device(), from.on_device(), 5).ok());
  }
  EXPECT_EQ(a->Synchronise().code(), absl::StatusCode::kInternal);
  ExpectFailed(*a, "written to after it was freed");
}

TEST(EmulatedAccelerator, FreedMemoryReadsAsNoNumberAndGoesToNobodyElse) {
  const auto a = Make(Pace::kLazy);
  Numbers to(*a);
  {
    const Numbers gone(*a);
    std::memset(gone.device.data(), 0, gone.device.size());
    ASSERT_TRUE(Add(*a, to.on_device(), gone.on_device(), 0).ok());
  }
  const Numbers next(*a);
  std::memset(next.device.data(), 0, next.device.size());
  ASSERT_TRUE(to.Out().ok());
  ASSERT_TRUE(a->Synchronise().ok());
  EXPECT_TRUE(to.pinned.Is(0xff));
}

TEST(EmulatedAcceleratorDeathTest, MisuseThatADeviceWouldNotSeeEndsTheTest) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        const auto a = Make(Pace::kEager);
        void* memory = a->Allocate(1).value();
        a->Free(memory);
        a->Free(memory);
      },
      "heap.cc");
  EXPECT_DEATH(
      {
        auto a = Make(Pace::kEager);
        (void)a->BeginCapture();
        auto graph = a->EndCapture();
        a.reset();
      },
      "graphs_ == 0");
}

// ---- a device that fails

TEST(EmulatedAccelerator, AnIllegalAccessFailsEverythingAfterIt) {
  for (const Pace pace : {Pace::kEager, Pace::kLazy}) {
    const auto a = Make(pace);
    Numbers x(*a), y(*a);
    x.pinned.Set(0);
    ASSERT_TRUE(x.In().ok());
    emulated::FailLaunch(*a, 3);
    ASSERT_TRUE(Add(*a, x.on_device(), x.on_device(), 1).ok());
    ASSERT_TRUE(Add(*a, x.on_device(), x.on_device(), 1).ok());
    ASSERT_TRUE(x.Out().ok());
    const uint64_t before = a->Mark().value();
    while (!a->Reached(before).value()) std::this_thread::yield();
    EXPECT_EQ(x.on_host()[63], 2) << "copies do not count";
    std::atomic<bool> ran = false;
    (void)Add(*a, x.on_device(), x.on_device(), 1);
    (void)QueueOf(*a)->Enqueue("after", [&] { return ran = true, absl::OkStatus(); });
    EXPECT_EQ(a->Synchronise().code(), absl::StatusCode::kInternal);
    ExpectFailed(*a, "add: an illegal memory access");
    EXPECT_FALSE(ran) << "what is behind it never runs";
  }
}

TEST(EmulatedAccelerator, AMarkBehindAFailureIsAnErrorNotReached) {
  const auto a = Make(Pace::kLazy);
  const Numbers x(*a);
  emulated::FailLaunch(*a, 1);
  ASSERT_TRUE(Add(*a, x.on_device(), x.on_device(), 1).ok());
  const uint64_t mark = a->Mark().value();
  absl::StatusOr<bool> reached = a->Reached(mark);
  while (reached.ok() && !*reached) {
    std::this_thread::yield();
    reached = a->Reached(mark);
  }
  EXPECT_EQ(reached.status().code(), absl::StatusCode::kInternal) << reached.status();
}

TEST(EmulatedAccelerator, LaunchesOfAGraphCountOneByOne) {
  const auto a = Make(Pace::kEager);
  Numbers x(*a);
  x.pinned.Set(0);
  ASSERT_TRUE(x.In().ok());
  ASSERT_TRUE(a->BeginCapture().ok());
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Add(*a, x.on_device(), x.on_device(), 1).ok());
  auto graph = a->EndCapture();
  ASSERT_TRUE(graph.ok());
  emulated::FailLaunch(*a, 6);
  ASSERT_TRUE(a->Launch(**graph).ok());
  ASSERT_TRUE(x.Out().ok());
  ASSERT_TRUE(a->Synchronise().ok());
  EXPECT_EQ(x.on_host()[0], 3);
  (void)a->Launch(**graph);
  EXPECT_EQ(a->Synchronise().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(a->Launch(**graph).code(), absl::StatusCode::kInternal);
}

TEST(EmulatedAccelerator, OneThatFailsHarmsNoOther) {
  const auto bad = Make(Pace::kEager), good = Make(Pace::kEager);
  emulated::FailLaunch(*bad, 1);
  (void)Add(*bad, nullptr, nullptr, 0);
  EXPECT_FALSE(bad->Synchronise().ok());
  EXPECT_TRUE(good->Allocate(1).ok());
  EXPECT_TRUE(good->Synchronise().ok());
}

// ---- graphs of kernels

TEST(EmulatedAccelerator, KernelsOfAGraphReadWhatIsInMemoryWhenItRuns) {
  const auto a = Make(Pace::kLazy);
  Numbers x(*a), y(*a);
  ASSERT_TRUE(a->BeginCapture().ok());
  EXPECT_TRUE(x.In().ok());
  EXPECT_TRUE(Add(*a, y.on_device(), x.on_device(), 1000).ok());
  EXPECT_TRUE(y.Out().ok());
  auto graph = a->EndCapture();
  ASSERT_TRUE(graph.ok());
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 64; ++i) x.on_host()[i] = i + round;
    ASSERT_TRUE(a->Launch(**graph).ok());
    ASSERT_TRUE(a->Synchronise().ok());
    for (int i = 0; i < 64; ++i) EXPECT_EQ(y.on_host()[i], 1000 + i + round);
  }
}

// ---- memory

TEST(EmulatedAccelerator, ItsLimitIsKept) {
  const auto a = Make(Pace::kEager, 10 << 20);
  void* half = a->Allocate(5 << 20).value();
  EXPECT_THAT(std::string(a->Allocate(6 << 20).status().message()),
              HasSubstr("6291456 bytes asked, 5242880 free of 10485760"));
  const SharedFile shared(*a, 3 << 20);
  EXPECT_EQ(shared.size(), size_t{4} << 20);
  EXPECT_EQ(a->Allocate(2 << 20).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(a->CreateShared((1 << 20) - 1).status().code(), absl::StatusCode::kResourceExhausted) << "rounded up";
  a->Free(half);
  EXPECT_TRUE(a->Allocate(6 << 20).ok());
}

TEST(EmulatedAccelerator, SharedMemoryOfAnotherDeviceIsRefused) {
  const auto a = Make(Pace::kEager, size_t{1} << 30, 0), b = Make(Pace::kEager, size_t{1} << 30, 1);
  const SharedFile shared(*a, 1);
  EXPECT_EQ(b->MapShared(shared.fd(), shared.size()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(a->MapShared(shared.fd(), shared.size()).ok());
}

}  // namespace
}  // namespace shoal::cuda
