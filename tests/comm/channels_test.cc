// Activations forward and tokens back over every transport; what waits, what does not, and what an abort ends.
#include <gtest/gtest.h>

#include <thread>

#include "common/base/rng.h"
#include "common/base/status_macros.h"
#include "tests/comm/group.h"

namespace shoal::comm {
namespace {

std::vector<std::byte> Message(int sender, int number, size_t bytes) {
  std::vector<std::byte> m(bytes);
  for (size_t i = 0; i < bytes; ++i) m[i] = static_cast<std::byte>(RandomBits(sender, number, i));
  return m;
}

class ChannelsTest : public testing::TestWithParam<TestTransport> {
 protected:
  bool unbuffered() const { return GetParam() == TestTransport::kLocalUnbuffered; }
};

// What holds wherever the data lie.
class EveryChannelTest : public testing::TestWithParam<TestTransport> {};

TEST_P(EveryChannelTest, EveryRankHasTheEndsOfItsPlace) {
  TestGroup group({.tp = 2, .pp = 3, .max_activation_bytes = 64, .max_samples = 1}, GetParam());
  for (int r = 0; r < 6; ++r) {
    const RankComm& c = group.rank(r);
    EXPECT_EQ(c.tensor->index(), r % 2);
    EXPECT_EQ(c.next != nullptr, r < 4) << r;
    EXPECT_EQ(c.previous != nullptr, r >= 2) << r;
    EXPECT_EQ(c.mailbox_out != nullptr, r == 4) << r;
    EXPECT_EQ(c.mailbox_in != nullptr, r < 2) << r;
  }
}

TEST_P(EveryChannelTest, ActivationsReachTheSameTensorIndexOfTheNextStage) {
  constexpr int kMessages = 50;
  TestGroup group({.tp = 2, .pp = 3, .max_activation_bytes = 3000, .max_samples = 1}, GetParam());
  const auto bytes_of = [](int m) { return 1 + RandomBits(5, 0, m) % 3000; };
  const auto results = group.Run([&](int r) -> absl::Status {
    const int stage = r / 2;
    for (int m = 0; m < kMessages; ++m) {
      std::vector<std::byte> data = Message(r, m, bytes_of(m));
      if (stage > 0) {
        SHOAL_RETURN_IF_ERROR(group.rank(r).previous->Receive(data));
        if (data != Message(r % 2, m, bytes_of(m))) return absl::DataLossError("another message");
      }
      if (stage < 2) SHOAL_RETURN_IF_ERROR(group.rank(r).next->Send(data));
    }
    return absl::OkStatus();
  });
  int64_t sent = 0;
  for (int m = 0; m < kMessages; ++m) sent += static_cast<int64_t>(bytes_of(m));
  for (int r = 0; r < 6; ++r) {
    EXPECT_TRUE(results[r].ok()) << results[r];
    EXPECT_EQ(group.rank(r).stats->over(ChannelCarrier(GetParam())).activation, r < 4 ? sent : 0);
  }
}

TEST_P(ChannelsTest, AnUnexpectedSizeIsADivergence) {
  TestGroup group({.tp = 1, .pp = 2, .max_activation_bytes = 100, .max_samples = 1}, GetParam());
  std::thread sender([&] { group.rank(0).next->Send(Message(0, 0, 99)).IgnoreError(); });
  std::vector<std::byte> data(100);
  EXPECT_EQ(group.rank(1).previous->Receive(data).code(), absl::StatusCode::kInternal);
  group.abort(0) = 1;
  sender.join();
}

// With the abort flag raised from the start, whatever would wait fails and whatever need not wait succeeds.
TEST_P(ChannelsTest, OnlyUnbufferedSendsWaitForTheirReceiver) {
  TestGroup group({.tp = 2, .pp = 2, .max_activation_bytes = 64, .max_samples = 1}, GetParam());
  for (int r = 0; r < 4; ++r) group.abort(r) = 1;
  const auto sent = group.rank(0).next->Send(Message(0, 0, 64));
  const std::vector<float> part(32);
  const std::vector<int32_t> widths = {32, 32};
  const auto gathered = group.rank(3).tensor->GatherColumns(part, 1, widths, nullptr, 64);
  EXPECT_EQ(sent.code(), unbuffered() ? absl::StatusCode::kAborted : absl::StatusCode::kOk) << sent;
  EXPECT_EQ(gathered.code(), unbuffered() ? absl::StatusCode::kAborted : absl::StatusCode::kOk) << gathered;
}

TEST_P(ChannelsTest, ThirdBufferedSendWaits) {
  if (unbuffered()) GTEST_SKIP() << "waits at the first";
  TestGroup group({.tp = 1, .pp = 2, .max_activation_bytes = 64, .max_samples = 1}, GetParam());
  group.abort(0) = 1;
  EXPECT_TRUE(group.rank(0).next->Send(Message(0, 0, 64)).ok());
  EXPECT_TRUE(group.rank(0).next->Send(Message(0, 1, 64)).ok());
  EXPECT_EQ(group.rank(0).next->Send(Message(0, 2, 64)).code(), absl::StatusCode::kAborted);
  std::vector<std::byte> data(64);
  EXPECT_TRUE(group.rank(1).previous->Receive(data).ok());
  EXPECT_EQ(data, Message(0, 0, 64));
  EXPECT_TRUE(Eventually([&] { return group.rank(0).next->Send(Message(0, 2, 64)); }));
}

TEST_P(ChannelsTest, MailboxHoldsAsManyMessagesAsItHasSlots) {
  TestGroup group({.tp = 2, .pp = 1, .max_samples = 3, .mailbox_slots = 4}, GetParam());
  group.abort(0) = 1;
  TokenMailbox& out = *group.rank(0).mailbox_out;
  for (int step = 1; step <= 4; ++step) {
    EXPECT_TRUE(out.Post(step, std::vector<int32_t>(step % 4, 100 + step)).ok()) << step;
  }
  EXPECT_EQ(out.Post(5, {}).code(), absl::StatusCode::kAborted);
  // One of two readers is not enough to free a slot.
  std::vector<int32_t> tokens(1);
  EXPECT_TRUE(group.rank(0).mailbox_in->Take(1, tokens).ok());
  EXPECT_EQ(out.Post(5, {}).code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(group.rank(1).mailbox_in->Take(1, tokens).ok());
  EXPECT_EQ(tokens[0], 101);
  EXPECT_TRUE(Eventually([&] { return out.Post(5, {}); }));
}

TEST_P(ChannelsTest, MailboxRefusesAnotherStepOrCount) {
  TestGroup group({.tp = 1, .pp = 1, .max_samples = 2}, GetParam());
  ASSERT_TRUE(group.rank(0).mailbox_out->Post(3, std::vector<int32_t>{8, 9}).ok());
  std::vector<int32_t> one(1), two(2);
  EXPECT_EQ(group.rank(0).mailbox_in->Take(4, two).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(group.rank(0).mailbox_in->Take(3, one).code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(group.rank(0).mailbox_in->Take(3, two).ok());
  EXPECT_EQ(two, (std::vector<int32_t>{8, 9}));
}

TEST_P(EveryChannelTest, TokensReachEveryRankOfTheFirstStageInOrder) {
  constexpr int kSteps = 200;
  TestGroup group({.tp = 2, .pp = 2, .max_activation_bytes = 64, .max_samples = 5, .mailbox_slots = 4}, GetParam());
  const auto results = group.Run([&](int r) -> absl::Status {
    for (int step = 1; step <= kSteps; ++step) {
      std::vector<int32_t> tokens(step % 6, step * 7);
      if (r == 2) SHOAL_RETURN_IF_ERROR(group.rank(r).mailbox_out->Post(step, tokens));
      if (r >= 2) continue;
      std::vector<int32_t> taken(tokens.size());
      SHOAL_RETURN_IF_ERROR(group.rank(r).mailbox_in->Take(step, taken));
      if (taken != tokens) return absl::DataLossError("other tokens");
    }
    return absl::OkStatus();
  });
  for (const auto& s : results) EXPECT_TRUE(s.ok()) << s;
  EXPECT_GT(group.rank(2).stats->over(ChannelCarrier(GetParam())).token, 0);
  EXPECT_EQ(group.rank(0).stats->over(ChannelCarrier(GetParam())).token, 0);
}

TEST_P(EveryChannelTest, AnAbortEndsEveryKindOfWait) {
  TestGroup group({.tp = 2, .pp = 2, .max_activation_bytes = 64, .max_samples = 1, .mailbox_slots = 1}, GetParam());
  std::atomic<int> running{0};
  std::thread aborter([&] {
    while (running < 4) std::this_thread::yield();
    for (int r = 0; r < 4; ++r) group.abort(r) = 1;
  });
  const auto results = group.Run([&](int r) -> absl::Status {
    ++running;
    std::vector<float> data(8);
    std::vector<std::byte> bytes(64);
    std::vector<int32_t> token(1);
    switch (r) {
      case 0:
        return group.rank(0).tensor->AllReduceSum(data);
      case 1:
        return group.rank(1).mailbox_in->Take(1, token);
      case 2:
        return group.rank(2).previous->Receive(bytes);
      default:
        return group.rank(3).tensor->AllReduceSum(data);
    }
  });
  aborter.join();
  for (const auto& s : results) EXPECT_EQ(s.code(), absl::StatusCode::kAborted) << s;
}

INSTANTIATE_TEST_SUITE_P(All, ChannelsTest, testing::ValuesIn(kAllTransports),
                         [](const auto& info) { return TransportName(info.param); });

INSTANTIATE_TEST_SUITE_P(All, EveryChannelTest, testing::ValuesIn(kHostAndDeviceTransports),
                         [](const auto& info) { return TransportName(info.param); });

}  // namespace
}  // namespace shoal::comm
