// The real accelerator on a CUDA that the host plays (fake_cuda/): that it keeps CUDA's rules, frees what it made, and
// says what CUDA says. That CUDA is as it is played shows on a device (device_accelerator_test.cc).
#include "kernels/cuda/runtime.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "tests/kernels/cuda/accelerator_contract.h"
#include "tests/kernels/cuda/accelerator_factory.h"
#include "tests/kernels/cuda/fake_cuda/cuda_runtime_api.h"
#include "tests/kernels/cuda/fake_cuda/fake_cuda.h"

namespace shoal::cuda {
namespace {

using emulated::Pace;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::unique_ptr<ops::Accelerator> Open(int device, Pace pace = Pace::kEager) {
  fake::settings().pace = pace;
  auto opened = OpenDevice(device);
  EXPECT_TRUE(opened.ok()) << opened.status();
  return opened.ok() ? std::move(*opened) : nullptr;
}

INSTANTIATE_TEST_SUITE_P(PlayedCuda, AcceleratorContract,
                         ::testing::Values(AcceleratorKind{"eager", [] { return Open(0); }, ACCELERATOR_PEER},
                                           AcceleratorKind{"lazy", [] { return Open(0, Pace::kLazy); },
                                                           ACCELERATOR_PEER}),
                         [](const auto& kind) { return kind.param.name; });

TEST(Runtime, DevicesThatCannotBeUsedAreNamedWithTheReason) {
  const auto refused = [](int index) {
    const absl::Status status = OpenDevice(index).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(refused(4), HasSubstr("CUDA device 4: there are 4"));
  EXPECT_THAT(refused(-1), HasSubstr("CUDA device -1: there are 4"));
  fake::settings().compute_major = 7;
  EXPECT_THAT(refused(0), HasSubstr("compute capability is 7.x"));
  fake::settings().compute_major = 8;
  fake::settings().shared_bytes = 99 << 10;
  EXPECT_THAT(refused(0), HasSubstr("a block of it has 99 KiB of shared memory, the kernels need 160"));
  fake::settings().shared_bytes = 163 << 10;
  fake::settings().shares_by_descriptor = false;
  EXPECT_THAT(refused(0), HasSubstr("device 0 has no memory that processes can share"));
  fake::settings().shares_by_descriptor = true;
}

// Two devices, as far as the driver lets them.
TEST(Runtime, MemoryOfAnotherDeviceIsReachedWhereTheDriverSaysSo) {
  const auto first = Open(0), second = Open(1);
  EXPECT_NE(first->Id().value(), second->Id().value());
  const SharedFile shared(*first, 100);
  const auto reached = second->MapPeer(shared.fd(), shared.size(), first->Id().value());
  ASSERT_TRUE(reached.ok()) << reached.status();
  second->UnmapShared(*reached, shared.size());
  fake::settings().reaches_peers = false;
  const absl::Status refused = second->MapPeer(shared.fd(), shared.size(), first->Id().value()).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("device 1 does not reach the memory of device 0"));
  EXPECT_TRUE(first->MapPeer(shared.fd(), shared.size(), first->Id().value()).ok()) << "no device is a peer of itself";
  fake::settings().reaches_peers = true;
}

TEST(Runtime, KernelsAreLoadedEagerlyUnlessTheEnvironmentSaysOtherwise) {
  ::unsetenv("CUDA_MODULE_LOADING");
  LoadKernelsEagerly();
  EXPECT_STREQ(std::getenv("CUDA_MODULE_LOADING"), "EAGER");
  ::setenv("CUDA_MODULE_LOADING", "LAZY", 1);
  LoadKernelsEagerly();
  EXPECT_STREQ(std::getenv("CUDA_MODULE_LOADING"), "LAZY");
}

TEST(Runtime, NothingIsLeftOfIt) {
  const int before = fake::Alive();
  for (const Pace pace : {Pace::kEager, Pace::kLazy}) {
    auto a = Open(0, pace);
    {
      const Piece memory(*a, Piece::kDevice, 100), pinned(*a, Piece::kPinned, 100);
      const SharedFile shared(*a, 100);
      void* mapped = a->MapShared(shared.fd(), shared.size()).value();
      EXPECT_FALSE(a->MapShared(shared.fd(), 2 * shared.size()).ok());
      EXPECT_FALSE(a->MapShared(STDIN_FILENO, shared.size()).ok());
      a->UnmapShared(mapped, shared.size());
      for (int i = 0; i < 10; ++i) EXPECT_TRUE(a->Mark().ok());
      EXPECT_TRUE(a->Reached(3).ok());
      EXPECT_TRUE(a->BeginCapture().ok());
      EXPECT_TRUE(a->Fill(memory.data(), 1, 100).ok());
      EXPECT_TRUE(a->EndCapture().ok());
      EXPECT_TRUE(a->BeginCapture().ok());
    }
    a.reset();  // while it records, with marks under way and memory to be freed afterwards
    EXPECT_EQ(fake::Alive(), before);
  }
}

TEST(Runtime, EventsAreUsedAgain) {
  const auto a = Open(0);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(a->Mark().ok());
  ASSERT_TRUE(a->Synchronise().ok());
  const int alive = fake::Alive();
  for (int i = 0; i < 100; ++i) {
    const uint64_t mark = a->Mark().value();
    while (!a->Reached(mark).value()) std::this_thread::yield();
  }
  EXPECT_EQ(fake::Alive(), alive);
}

// A thread's current device decides where CUDA works, and what is asked of another one makes a context there.
TEST(Runtime, EachThreadAndCallHasItsDevice) {
  const auto b = Open(1);
  const int touched = fake::Touched(0);
  void* memory = b->Allocate(100).value();
  std::thread([&] { b->Free(memory); }).join();
  EXPECT_EQ(fake::Touched(0), touched);

  const auto a = Open(0);
  const Piece on_a(*a, Piece::kDevice, 100), on_b(*b, Piece::kDevice, 100);
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(a->Mark().ok());
    EXPECT_TRUE(b->Mark().ok());
    EXPECT_TRUE(a->Fill(on_a.data(), 1, 100).ok());
    EXPECT_TRUE(b->Fill(on_b.data(), 1, 100).ok());
  }
  EXPECT_TRUE(a->Synchronise().ok());
  EXPECT_TRUE(b->Synchronise().ok());
  std::thread([&] {
    void* other = b->Allocate(1 << 20).value();
    const size_t free = b->Memory().value().free;
    std::thread([&] { b->Free(other); }).join();
    EXPECT_GT(b->Memory().value().free, free);
  }).join();
}

TEST(Runtime, SharedMemoryOfAnotherDeviceIsRefused) {
  const auto a = Open(0), b = Open(1);
  const SharedFile shared(*a, 1);
  const absl::Status refused = b->MapShared(shared.fd(), shared.size()).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("of device 0 (kind 1), not of device 1"));
}

TEST(Runtime, WhatALibraryDoesToACaptureIsToldAndHarmsNothingElse) {
  const auto a = Open(0);
  Piece out(*a, Piece::kPinned, 100);
  const Piece memory(*a, Piece::kDevice, 100);
  ASSERT_TRUE(a->BeginCapture().ok());
  void* taken = nullptr;
  EXPECT_EQ(cudaMalloc(&taken, 1), cudaErrorStreamCaptureUnsupported);
  const absl::Status spoilt = a->EndCapture().status();
  EXPECT_EQ(spoilt.code(), absl::StatusCode::kFailedPrecondition) << spoilt;
  ASSERT_TRUE(a->Fill(memory.data(), 4, 100).ok());
  ASSERT_TRUE(a->CopyOut(out.data(), memory.data(), 100).ok());
  ASSERT_TRUE(a->Synchronise().ok());
  EXPECT_TRUE(out.Is(4));
}

TEST(Runtime, AnotherThreadFreesWhileThisOneRecords) {
  const auto a = Open(0);
  const Piece memory(*a, Piece::kDevice, 100);
  void* gone = a->Allocate(100).value();
  const int before = fake::Alive();
  ASSERT_TRUE(a->BeginCapture().ok());
  std::thread([&] { a->Free(gone); }).join();
  EXPECT_EQ(fake::Alive(), before) << "not yet";
  EXPECT_TRUE(a->Fill(memory.data(), 4, 100).ok());
  {
    const auto graph = a->EndCapture();
    EXPECT_TRUE(graph.ok()) << graph.status();
  }
  EXPECT_EQ(fake::Alive(), before - 1);
}

TEST(Runtime, ADeviceThatFailedSaysSoInItsWordsEverAfter) {
  auto a = Open(1);
  auto* row = static_cast<std::byte*>(a->Allocate(1024).value());
  const int32_t* rows = static_cast<int32_t*>(a->Allocate(64).value());
  fake::FailLaunch(1);
  const auto gather = [&] {
    return a->table().gather_rows(a->stream(), {.x = ops::ConstActs(static_cast<const void*>(row)),
                                                .rows = rows,
                                                .y = ops::Acts(static_cast<void*>(row + 512)),
                                                .count = 1,
                                                .dim = 8});
  };
  ASSERT_TRUE(gather().ok());
  EXPECT_EQ(a->Synchronise().code(), absl::StatusCode::kInternal);
  for (const absl::Status& failed :
       {a->Synchronise(), a->Mark().status(), a->Reached(0).status(), a->Allocate(1).status(),
        a->AllocatePinned(1).status(), a->Memory().status(), a->CreateShared(1).status(), a->MapShared(0, 1).status(),
        a->BeginCapture(), a->EndCapture().status(), a->CopyIn(nullptr, nullptr, 0), a->CopyOut(nullptr, nullptr, 1),
        a->Copy(nullptr, nullptr, 1), a->Fill(nullptr, 0, 1)}) {
    EXPECT_EQ(failed.code(), absl::StatusCode::kInternal) << failed;
    EXPECT_THAT(std::string(failed.message()),
                AllOf(HasSubstr("cudaErrorIllegalAddress"), HasSubstr("an illegal memory access was encountered")));
  }
  EXPECT_FALSE(gather().ok());
  a->Free(row);  // to no effect
  EXPECT_TRUE(Open(0)->Synchronise().ok()) << "another device is none the worse";
}

}  // namespace
}  // namespace shoal::cuda
