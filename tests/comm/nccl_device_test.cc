// NCCL's and CUDA's own words behind nccl_api.h: nccl_device.cc on a CUDA and an NCCL that the host plays (fake_cuda/,
// fake_nccl/), below the accelerator and the channels of production.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <future>

#include "common/base/status_macros.h"
#include "kernels/cuda/runtime.h"
#include "tests/comm/fake_nccl/nccl.h"
#include "tests/comm/nccl_group.h"
#include "worker/comm/nccl_api.h"

namespace shoal::comm {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class NcclDevice : public ::testing::Test {
 protected:
  // A device for each: freeing memory waits for all streams of this process on its device, whosever they are, and those
  // of another rank may wait for this one.
  void Make(int tp, int pp) {
    const GroupShape shape = {.tp = tp, .pp = pp, .max_activation_bytes = 4096, .max_samples = 3, .mailbox_slots = 2};
    flags_.resize(static_cast<size_t>(tp * pp));
    std::vector<const AbortFlag*> flags;
    for (const AbortFlag& flag : flags_) flags.push_back(&flag);
    const NcclMaker maker = {.accelerator = [](int r) { return cuda::OpenDevice(r).value(); },
                             .library = [](int) { return shoal_nccl(); },
                             .all_reduce = AllReducePolicy::kNccl};
    group_ = std::make_unique<NcclGroup>(shape, flags, maker);
  }
  void TearDown() override {
    group_ = nullptr;
    EXPECT_EQ(FakeNcclComms(), 0);
  }

  // fn(rank's channels over host memory, rank), each on a thread of its own.
  void Run(const std::function<absl::Status(RankComm&, int)>& fn) {
    std::vector<std::future<absl::Status>> running;
    for (int r = 0; r < group_->size(); ++r) {
      running.push_back(std::async(std::launch::async, [&, r] {
        RankComm host = OnHost(group_->rank(r), group_->accelerator(r));
        return fn(host, r);
      }));
    }
    for (auto& rank : running) {
      const absl::Status status = rank.get();
      EXPECT_TRUE(status.ok()) << status;
    }
  }

  std::deque<AbortFlag> flags_;
  std::unique_ptr<NcclGroup> group_;
};

TEST_F(NcclDevice, SumsAndGathers) {
  Make(3, 1);
  Run([](RankComm& comm, int r) -> absl::Status {
    for (const size_t count : {size_t{5}, size_t{300001}}) {  // one shot, two shots
      std::vector<float> data(count, static_cast<float>(1 << r));
      SHOAL_RETURN_IF_ERROR(comm.tensor->AllReduceSum(data));
      if (data != std::vector<float>(count, 7.0f)) return absl::DataLossError("another sum");
    }
    const std::vector<int32_t> widths = {1, 2, 1};
    const std::vector<float> part(static_cast<size_t>(2 * widths[static_cast<size_t>(r)]), static_cast<float>(r));
    std::vector<float> whole(8, -1.0f);
    SHOAL_RETURN_IF_ERROR(comm.tensor->GatherColumns(part, 2, widths, whole.data(), 4));
    const std::vector<float> expected = r == 0 ? std::vector<float>{0, 1, 1, 2, 0, 1, 1, 2} : std::vector<float>(8, -1);
    return whole == expected ? absl::OkStatus() : absl::DataLossError("other columns");
  });
}

TEST_F(NcclDevice, ActivationsGoForwardAndTokensBack) {
  Make(2, 2);
  Run([](RankComm& comm, int r) -> absl::Status {
    for (int step = 1; step <= 9; ++step) {
      std::vector<std::byte> bytes(static_cast<size_t>(100 * step), static_cast<std::byte>(step));
      const std::vector<std::byte> expected = bytes;
      if (r < 2) SHOAL_RETURN_IF_ERROR(comm.next->Send(bytes));
      if (r >= 2) {
        bytes.assign(bytes.size(), {});
        SHOAL_RETURN_IF_ERROR(comm.previous->Receive(bytes));
        if (bytes != expected) return absl::DataLossError("other activations");
      }
      std::vector<int32_t> tokens = {step, step + 1, step + 2}, taken(3);
      if (r == 2) SHOAL_RETURN_IF_ERROR(comm.mailbox_out->Post(static_cast<uint64_t>(step), tokens));
      if (r >= 2) continue;
      SHOAL_RETURN_IF_ERROR(comm.mailbox_in->Take(static_cast<uint64_t>(step), taken));
      if (taken != tokens) return absl::DataLossError("other tokens");
    }
    return absl::OkStatus();
  });
}

TEST_F(NcclDevice, RecordedOperationsRunWithEachLaunch) {
  Make(2, 1);
  std::vector<std::future<absl::Status>> running;
  const auto record = [&](int r) -> absl::Status {
    ops::Accelerator& device = group_->accelerator(r);
    SHOAL_ASSIGN_OR_RETURN(void* const data, device.Allocate(16));
    SHOAL_ASSIGN_OR_RETURN(void* const pinned, device.AllocatePinned(16));
    SHOAL_RETURN_IF_ERROR(device.Fill(data, 0x3f, 16));
    SHOAL_RETURN_IF_ERROR(device.BeginCapture());
    const absl::Status summed = group_->rank(r).tensor->AllReduceSum(ops::Acts(data), 8);
    SHOAL_ASSIGN_OR_RETURN(const auto graph, device.EndCapture());
    SHOAL_RETURN_IF_ERROR(summed);
    for (int i = 0; i < 3; ++i) SHOAL_RETURN_IF_ERROR(device.Launch(*graph));
    SHOAL_RETURN_IF_ERROR(device.CopyOut(pinned, data, 16));
    SHOAL_RETURN_IF_ERROR(AwaitDevice(group_->rank(r), device));
    const auto* const got = static_cast<const uint16_t*>(pinned);
    const bool doubled_thrice = std::all_of(got, got + 8, [](uint16_t x) { return x == 0x3f3f + 3 * 0x80; });
    device.Free(data);
    device.FreePinned(pinned);
    return doubled_thrice ? absl::OkStatus() : absl::DataLossError("another sum");
  };
  for (int r = 0; r < 2; ++r) running.push_back(std::async(std::launch::async, record, r));
  for (auto& rank : running) EXPECT_EQ(rank.get(), absl::OkStatus());
}

TEST_F(NcclDevice, WhatNcclSaysOfACommunicatorIsToldByPoll) {
  Make(2, 1);
  EXPECT_TRUE(group_->rank(0).watch->Poll().ok());
  FakeNcclSay(ncclRemoteError);
  const absl::Status lost = group_->rank(0).watch->Poll();
  FakeNcclSay(ncclInternalError);
  const absl::Status broken = group_->rank(1).watch->Poll();
  FakeNcclSay(ncclSuccess);
  EXPECT_EQ(lost.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(lost.message()), AllOf(HasSubstr("rank 0, tensor channel"), HasSubstr("NCCL 2.28.9"),
                                                 HasSubstr("remote process exited"), HasSubstr("its last words")));
  EXPECT_EQ(broken.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(group_->rank(0).watch->Poll(), lost);
}

// Whatever fails, this thread's group is closed again.
TEST_F(NcclDevice, AFailedCallLeavesNoGroupOpen) {
  for (const char* function : {"ncclSend", "ncclGroupStart", "ncclGroupEnd", "ncclAllGather"}) {
    SCOPED_TRACE(function);
    Make(2, 1);
    RankComm& rank = group_->rank(0);
    void* const data = group_->accelerator(0).Allocate(64).value();
    FakeNcclFail(function, ncclUnhandledCudaError);
    const absl::Status failed = function == std::string("ncclAllGather")
                                    ? rank.tensor->AllReduceSum(ops::Acts(data), 8)
                                    : rank.mailbox_out->Post(1, {static_cast<const int32_t*>(data), 2});
    EXPECT_EQ(failed.code(), absl::StatusCode::kInternal) << failed;
    EXPECT_THAT(std::string(failed.message()), HasSubstr(function));
    EXPECT_EQ(FakeNcclDepth(), 0);
    group_->accelerator(0).Free(data);
    group_ = nullptr;
  }
}

TEST_F(NcclDevice, ACommunicatorThatCannotBeginSaysWhy) {
  const AbortFlag abort = 0;
  const auto device = cuda::OpenDevice(0).value();
  const auto rendezvous =
      NcclRendezvous::Open(
          {.api = shoal_nccl(), .accelerator = device.get(), .shape = {.tp = 2, .max_samples = 1}, .abort = &abort})
          .value();
  const auto other_device = cuda::OpenDevice(1).value();
  const auto other = NcclRendezvous::Open({.api = shoal_nccl(),
                                           .accelerator = other_device.get(),
                                           .shape = {.tp = 2, .max_samples = 1},
                                           .rank = 1,
                                           .abort = &abort})
                         .value();
  const std::vector<std::string> addresses = {rendezvous->address(), other->address()};
  FakeNcclFail("ncclCommInitRankConfig", ncclInvalidUsage);
  const absl::Status status = rendezvous->Connect(addresses, kSecond).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("rank 0, tensor channel of ranks 0, 1"),
                                                   HasSubstr("ncclCommInitRankConfig"), HasSubstr("its last words")));
}

}  // namespace
}  // namespace shoal::comm
