// The device transport beyond what holds for all: how ranks find each other, what the host does not wait for, graphs,
// and what ends when something goes wrong. Ranks are threads with emulated devices (nccl_group.h).
#include "worker/comm/nccl.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <future>
#include <thread>

#include "common/base/dtype.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"
#include "tests/comm/nccl_group.h"
#include "worker/comm/nccl_address.h"

namespace shoal::comm {
namespace {

using cuda::emulated::Pace;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

GroupShape Shape(int tp, int pp) {
  return {.tp = tp, .pp = pp, .max_activation_bytes = 1 << 12, .max_samples = 4, .mailbox_slots = 4};
}

// A group whose ranks may be given work one by one, on this thread.
class Group {
 public:
  explicit Group(const GroupShape& shape, Pace pace = Pace::kEager)
      : flags_(static_cast<size_t>(shape.tp * shape.pp)), group_(shape, Pointers(), pace) {}
  // Nothing of it may wait for the other ranks any more when their devices go.
  ~Group() {
    for (int r = 0; r < group_.size(); ++r) group_.rank(r).watch->Abort();
  }
  RankComm& operator[](int r) { return group_.rank(r); }
  ops::Accelerator& device(int r) { return group_.accelerator(r); }
  NcclWorld& world() { return group_.world(); }
  AbortFlag& abort(int r) { return flags_[static_cast<size_t>(r)]; }

 private:
  std::vector<const AbortFlag*> Pointers() const {
    std::vector<const AbortFlag*> pointers;
    for (const AbortFlag& flag : flags_) pointers.push_back(&flag);
    return pointers;
  }
  std::deque<AbortFlag> flags_;
  NcclGroup group_;
};

// Elements on a rank's device.
template <typename T>
class OnDeviceArray {
 public:
  OnDeviceArray(Group& group, int rank, size_t count)
      : comm_(&group[rank]), device_(&group.device(rank)), count_(count) {
    data_ = static_cast<T*>(device_->Allocate(bytes()).value());
    pinned_ = static_cast<T*>(device_->AllocatePinned(bytes()).value());
  }
  ~OnDeviceArray() {
    if (!device_->Synchronise().ok()) return;
    device_->Free(data_);
    device_->FreePinned(pinned_);
  }
  OnDeviceArray(const OnDeviceArray&) = delete;
  OnDeviceArray& operator=(const OnDeviceArray&) = delete;

  T* data() const { return data_; }
  std::span<T> span() const { return {data_, count_}; }
  ops::Acts acts() const { return ops::Acts(static_cast<void*>(data_)); }
  void Set(const std::vector<T>& values) {
    std::memcpy(pinned_, values.data(), bytes());
    EXPECT_TRUE(device_->CopyIn(data_, pinned_, bytes()).ok());
    EXPECT_TRUE(AwaitDevice(*comm_, *device_).ok());
  }
  std::vector<T> Get() {
    EXPECT_TRUE(device_->CopyOut(pinned_, data_, bytes()).ok());
    EXPECT_TRUE(AwaitDevice(*comm_, *device_).ok());
    return {pinned_, pinned_ + count_};
  }

 private:
  size_t bytes() const { return count_ * sizeof(T); }

  RankComm* const comm_;
  ops::Accelerator* const device_;
  const size_t count_;
  T* data_ = nullptr;
  T* pinned_ = nullptr;
};

std::vector<uint16_t> Half(const std::vector<float>& values) {
  std::vector<uint16_t> half;
  for (const float v : values) half.push_back(F32ToBF16(v));
  return half;
}

// ---- who is in which communicator, and what a rank publishes

std::vector<std::string> MembersText(const GroupShape& shape, int rank) {
  std::vector<std::string> text;
  for (const NcclMembers& m : NcclMembersOf(shape, rank)) {
    std::string one(kNcclKindNames[static_cast<size_t>(m.kind)]);
    for (const int r : m.ranks) one += " " + std::to_string(r) + (m.peer(r) == m.index ? "*" : "");
    text.push_back(one);
  }
  return text;
}

TEST(NcclMembers, OneCommunicatorForEachChannelWithPeers) {
  EXPECT_THAT(MembersText(Shape(1, 1), 0), IsEmpty());
  EXPECT_THAT(MembersText(Shape(2, 1), 1), ElementsAre("tensor 0 1*", "token 0 1*"));
  EXPECT_THAT(MembersText(Shape(1, 3), 1), ElementsAre("stage 0 1* 2"));
  EXPECT_THAT(MembersText(Shape(1, 3), 2), ElementsAre("stage 0 1 2*", "token 0 2*"));
  EXPECT_THAT(MembersText(Shape(2, 2), 0), ElementsAre("tensor 0* 1", "stage 0* 2", "token 0* 1 2"));
  EXPECT_THAT(MembersText(Shape(2, 2), 2), ElementsAre("tensor 2* 3", "stage 0 2*", "token 0 1 2*"));
  EXPECT_THAT(MembersText(Shape(2, 2), 3), ElementsAre("tensor 2 3*", "stage 1 3*"));
}

NcclAddress Address() {
  NcclAddress a = {7, 99, 2, "2.28.9", {}, {}};
  a.ids[NcclKind::kTensor].fill(std::byte{0xab});
  a.ids[NcclKind::kToken].fill(std::byte{0x01});
  a.peer = PeerOffer{"4c2f-77aa", std::string(DescriptorPort::kAddressBytes, 'e'), {0, 1, 0xfe}, 2 << 20};
  return a;
}

TEST(NcclAddress, IsReadBack) {
  const auto decoded = DecodeNcclAddress(EncodeAddress(Address()), 4);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded, Address());
  NcclAddress alone = Address();
  alone.peer.reset();
  EXPECT_EQ(DecodeNcclAddress(EncodeAddress(alone), 4).value(), alone);
}

TEST(NcclAddress, WhatNoRankPublishesIsRefused) {
  const std::string good = EncodeAddress(Address());
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    return text;
  };
  for (const std::string& text : {std::string(),
                                  std::string("nccl2 7 99 2"),
                                  with("nccl2", "nccl1"),
                                  with(" 7 ", " -7 "),
                                  with(" 2 ", " 4 "),
                                  with("2.28.9", "2.28;9"),
                                  with("tensor", "sensor"),
                                  with("token", "tensor"),
                                  with("abab", "abxb"),
                                  with("peer:", "pier:"),
                                  with("4c2f", "4c:f"),
                                  with("4c2f", "4C2F"),
                                  with("4c2f-77aa", ""),
                                  with("eeee", "eee"),
                                  with("0001fe", "0001f"),
                                  with(":2097152", ":-2"),
                                  with(":2097152", ""),
                                  good + "x",
                                  good + " ",
                                  good + " peer:a:" + std::string(64, 'e') + ":" + std::string(32, '0') + ":1",
                                  std::string(kMaxAddressBytes + 1, 'n')}) {
    EXPECT_EQ(DecodeNcclAddress(text, 4).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

// ---- coming up

// Ranks that open and connect one by one.
class Ranks {
 public:
  explicit Ranks(const GroupShape& shape) : shape_(shape), flags_(static_cast<size_t>(shape.tp * shape.pp)) {}

  std::unique_ptr<NcclRendezvous> Open(int rank, const std::string& version = "2.28.9", uint64_t generation = 7) {
    libraries_.push_back(MakeEmulatedNccl(&world_, version));
    devices_.push_back(MakeTestAccelerator());
    return NcclRendezvous::Open({.api = libraries_.back().get(),
                                 .accelerator = devices_.back().get(),
                                 .shape = shape_,
                                 .rank = rank,
                                 .generation = generation,
                                 .abort = &flags_[static_cast<size_t>(rank)],
                                 .note = &note})
        .value();
  }
  AbortFlag& abort(int rank) { return flags_[static_cast<size_t>(rank)]; }
  NcclWorld& world() { return world_; }
  WaitNote note;

 private:
  const GroupShape shape_;
  NcclWorld world_;
  std::deque<AbortFlag> flags_;
  std::vector<std::unique_ptr<NcclApi>> libraries_;
  std::vector<std::unique_ptr<ops::Accelerator>> devices_;
};

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(NcclConnect, ARankThatNeverComesIsNamedAtTheDeadline) {
  Ranks ranks(Shape(3, 1));
  auto first = ranks.Open(0), second = ranks.Open(1), third = ranks.Open(2);
  const std::vector<std::string> addresses = {first->address(), second->address(), third->address()};
  auto other = std::async(std::launch::async, [&] { return third->Connect(addresses, 50 * kMillisecond).status(); });
  const absl::Status status = first->Connect(addresses, 50 * kMillisecond).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_THAT(Message(status), AllOf(HasSubstr("rank 0, tensor channel"), HasSubstr("not all of ranks 1, 2 came")));
  EXPECT_EQ(other.get().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_GT(ranks.note.looks.load(), 0u);
  EXPECT_EQ(ranks.note.peer.load(), 0u);
}

TEST(NcclConnect, AnAbortEndsIt) {
  Ranks ranks(Shape(2, 1));
  auto first = ranks.Open(0), second = ranks.Open(1);
  const std::vector<std::string> addresses = {first->address(), second->address()};
  std::thread aborter([&] {
    while (ranks.note.peer.load() != 2) std::this_thread::yield();  // 1 + the rank that is waited for
    ranks.abort(0) = 1;
  });
  EXPECT_EQ(first->Connect(addresses, 30 * kSecond).status().code(), absl::StatusCode::kAborted);
  aborter.join();
}

TEST(NcclConnect, APeerThatIsLostEndsIt) {
  Ranks ranks(Shape(2, 1));
  auto first = ranks.Open(0), second = ranks.Open(1);
  ranks.world().Break(absl::UnavailableError("remote process exited"));
  const absl::Status status =
      first->Connect(std::vector<std::string>{first->address(), second->address()}, 30 * kSecond).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(status), AllOf(HasSubstr("rank 0, tensor channel of ranks 0, 1"), HasSubstr("process exited")));
}

TEST(NcclConnect, AddressesOfAnotherGroupAreRefused) {
  Ranks ranks(Shape(2, 1)), narrow(Shape(1, 1));
  auto first = ranks.Open(0), second = ranks.Open(1), later = ranks.Open(1, "2.28.9", 8), alone = narrow.Open(0);
  auto newer = ranks.Open(1, "2.30.1");
  const auto refused = [&](const std::vector<std::string>& addresses) {
    return first->Connect(addresses, kSecond).status();
  };
  using absl::StatusCode;
  EXPECT_EQ(refused({first->address()}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(refused({first->address(), "gloo1 1 2 3 4 127.0.0.1"}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(refused({second->address(), first->address()}).code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(refused({first->address(), later->address()}).code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(refused({alone->address(), second->address()}).code(), StatusCode::kFailedPrecondition);
  const absl::Status version = refused({first->address(), newer->address()});
  EXPECT_EQ(version.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(version), AllOf(HasSubstr("rank 1 has NCCL 2.30.1"), HasSubstr("rank 0 has 2.28.9")));

  NcclAddress without_ids = DecodeNcclAddress(first->address(), 2).value();
  without_ids.ids.clear();
  EXPECT_THAT(Message(refused({EncodeAddress(without_ids), second->address()})),
              HasSubstr("rank 0 has published no id for the tensor channel"));
}

TEST(NcclConnect, OneRankNeedsNobody) {
  Group group(Shape(1, 1));
  OnDeviceArray<int32_t> from(group, 0, 2), to(group, 0, 2);
  from.Set({5, 6});
  ASSERT_TRUE(group[0].mailbox_out->Post(1, from.span()).ok());
  ASSERT_TRUE(group[0].mailbox_in->Take(1, to.span()).ok());
  EXPECT_EQ(to.Get(), (std::vector<int32_t>{5, 6}));
  EXPECT_EQ(group[0].stats->over(Transport::kNccl).token, 0);
}

// ---- operations

TEST(NcclChannels, NoOperationWaitsForAnotherRankOnTheHost) {
  Group group(Shape(2, 2));
  OnDeviceArray<uint16_t> here(group, 0, 64);
  here.Set(Half(std::vector<float>(64, 1.5f)));
  // Rank 0 enqueues everything before any other rank does anything.
  ASSERT_TRUE(group[0].tensor->AllReduceSum(here.acts(), 64).ok());
  ASSERT_TRUE(group[0].next->Send(std::as_bytes(here.span())).ok());
  ASSERT_TRUE(group[0].watch->Poll().ok());
  OnDeviceArray<uint16_t> beside(group, 1, 64), next(group, 2, 64);
  beside.Set(Half(std::vector<float>(64, 2.0f)));
  ASSERT_TRUE(group[2].previous->Receive(std::as_writable_bytes(next.span())).ok());
  ASSERT_TRUE(group[1].tensor->AllReduceSum(beside.acts(), 64).ok());
  EXPECT_EQ(next.Get(), Half(std::vector<float>(64, 3.5f)));
  EXPECT_EQ(beside.Get(), next.Get());
}

// More than one piece: 16 MiB of bf16 are 8 Mi elements.
TEST(NcclChannels, LargeSumsGoInPieces) {
  constexpr size_t kCount = (size_t{8} << 20) + 4097;
  Group group(Shape(2, 1));
  OnDeviceArray<uint16_t> first(group, 0, kCount), second(group, 1, kCount);
  std::vector<uint16_t> a(kCount), b(kCount), sums(kCount);
  for (size_t i = 0; i < kCount; ++i) {
    const auto x = static_cast<float>(i % 113), y = static_cast<float>(i % 1009) * 256.0f;
    a[i] = F32ToBF16(x);
    b[i] = F32ToBF16(y);
    sums[i] = F32ToBF16(BF16ToF32(a[i]) + BF16ToF32(b[i]));
  }
  first.Set(a);
  second.Set(b);
  ASSERT_TRUE(group[0].tensor->AllReduceSum(first.acts(), kCount).ok());
  ASSERT_TRUE(group[1].tensor->AllReduceSum(second.acts(), kCount).ok());
  EXPECT_TRUE(first.Get() == sums);
  EXPECT_TRUE(second.Get() == sums);
}

// A vocabulary so wide that a gather goes in pieces of rows; the last rank has no columns.
TEST(NcclChannels, WideGathersGoInPieces) {
  const std::vector<int32_t> widths = {32, 1 << 20, 0};
  constexpr int kRows = 5;
  const int64_t stride = 32 + (1 << 20) + 3;
  Group group(Shape(3, 1));
  OnDeviceArray<float> whole(group, 0, static_cast<size_t>(kRows * stride));
  std::vector<std::unique_ptr<OnDeviceArray<float>>> parts;
  for (int r = 0; r < 3; ++r) {
    const auto width = static_cast<size_t>(widths[static_cast<size_t>(r)]);
    std::vector<float> values(kRows * width);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 65521) + static_cast<float>(r) / 4;
    parts.push_back(std::make_unique<OnDeviceArray<float>>(group, r, std::max<size_t>(values.size(), 1)));
    if (!values.empty()) parts.back()->Set(values);
    const std::span<const float> part(parts.back()->data(), values.size());
    ASSERT_TRUE(group[r].tensor->GatherColumns(part, kRows, widths, r == 0 ? whole.data() : nullptr, stride).ok());
  }
  const std::vector<float> got = whole.Get();
  int wrong = 0;
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t c = 0; c < 32 + (1 << 20); ++c) {
      const int64_t i = c < 32 ? row * 32 + c : row * (1 << 20) + c - 32;
      const float expected = static_cast<float>(i % 65521) + (c < 32 ? 0.0f : 0.25f);
      wrong += got[static_cast<size_t>(row * stride + c)] != expected;
    }
  }
  EXPECT_EQ(wrong, 0);
}

TEST(NcclChannels, GatherRefusesAPartOfAnotherSize) {
  Group group(Shape(2, 1));
  const std::vector<int32_t> widths = {32, 32};
  OnDeviceArray<float> part(group, 0, 64);
  EXPECT_EQ(group[0].tensor->GatherColumns(part.span(), 1, widths, part.data(), 64).code(),
            absl::StatusCode::kInternal);
}

// What a step of the decoder does, recorded once and launched with other contents each time.
TEST(NcclChannels, OperationsAreRecordedInGraphs) {
  Group group(Shape(2, 1));
  const std::vector<int32_t> widths = {1, 2};
  OnDeviceArray<float> whole(group, 0, 3);
  std::vector<std::unique_ptr<OnDeviceArray<uint16_t>>> acts;
  std::vector<std::unique_ptr<OnDeviceArray<float>>> parts;
  std::vector<std::unique_ptr<ops::AcceleratorGraph>> graphs;
  for (int r = 0; r < 2; ++r) {
    acts.push_back(std::make_unique<OnDeviceArray<uint16_t>>(group, r, 16));
    parts.push_back(std::make_unique<OnDeviceArray<float>>(group, r, static_cast<size_t>(widths[r])));
    ASSERT_TRUE(group.device(r).BeginCapture().ok());
    ASSERT_TRUE(group[r].tensor->AllReduceSum(acts[r]->acts(), 16).ok());
    ASSERT_TRUE(group[r].tensor->GatherColumns(parts[r]->span(), 1, widths, r == 0 ? whole.data() : nullptr, 3).ok());
    graphs.push_back(group.device(r).EndCapture().value());
  }
  for (const float round : {1.0f, 10.0f}) {
    for (int r = 0; r < 2; ++r) {
      const float mine = round + static_cast<float>(r);
      acts[r]->Set(Half(std::vector<float>(16, mine)));
      parts[r]->Set(std::vector<float>(static_cast<size_t>(widths[r]), -mine));
    }
    for (int r = 0; r < 2; ++r) ASSERT_TRUE(group.device(r).Launch(*graphs[r]).ok());
    for (int r = 0; r < 2; ++r) EXPECT_EQ(acts[r]->Get(), Half(std::vector<float>(16, 2 * round + 1)));
    EXPECT_THAT(whole.Get(), ElementsAre(-round, -round - 1, -round - 1));
  }
}

// ---- tokens

bool Reached(Group& group, int rank, uint64_t mark) { return group.device(rank).Reached(mark).value(); }

// Messages are taken as late as possible: the writer must not wait for a reader before all slots are full.
TEST(NcclMailbox, TheWriterGoesOnUntilAllSlotsAreFull) {
  Group group(Shape(1, 2));
  RankComm& writer = group[1];
  OnDeviceArray<int32_t> tokens(group, 1, 2), taken(group, 0, 2);
  for (int step = 1; step <= 4; ++step) {
    tokens.Set({step, 10 * step});  // waits for the device: nothing on its main queue is stuck
    ASSERT_TRUE(writer.mailbox_out->Post(static_cast<uint64_t>(step), tokens.span()).ok());
  }
  ASSERT_TRUE(AwaitDevice(writer, group.device(1)).ok());
  // The fifth has no room: the device waits, and the host does not.
  ASSERT_TRUE(writer.mailbox_out->Post(5, tokens.span()).ok());
  const uint64_t mark = group.device(1).Mark().value();
  EXPECT_FALSE(Reached(group, 1, mark));
  for (int step = 1; step <= 5; ++step) {
    ASSERT_TRUE(group[0].mailbox_in->Take(static_cast<uint64_t>(step), taken.span()).ok());
    const int value = std::min(step, 4);
    EXPECT_EQ(taken.Get(), (std::vector<int32_t>{value, 10 * value})) << step;
  }
  ASSERT_TRUE(AwaitDevice(writer, group.device(1)).ok());
  EXPECT_TRUE(Reached(group, 1, mark));
  EXPECT_EQ(writer.stats->over(Transport::kNccl).token, 5 * 8);
}

// Two cohorts of sequences in a pipeline of two stages. The first stage sends the activations of step n + 1 before it
// takes the tokens of step n, and a send is done when it is received: tokens on the writer's main queue would wait for
// each other in a circle.
TEST(NcclMailbox, LateReadersAndUnbufferedSendsDoNotDeadlock) {
  constexpr int kSteps = 40;
  Group group(Shape(1, 2));
  OnDeviceArray<int32_t> first(group, 0, 1), last(group, 1, 1);
  first.Set({1000});
  const auto send = [&] { return group[0].next->Send(std::as_bytes(first.span())); };
  const auto take = [&](uint64_t step) { return group[0].mailbox_in->Take(step, first.span()); };
  for (uint64_t step = 1; step <= kSteps; ++step) {  // both enqueue all that they have to
    ASSERT_TRUE(send().ok());
    if (step > 1) {
      ASSERT_TRUE(take(step - 1).ok());
    }
  }
  ASSERT_TRUE(take(kSteps).ok());
  for (uint64_t step = 1; step <= kSteps; ++step) {
    ASSERT_TRUE(group[1].previous->Receive(std::as_writable_bytes(last.span())).ok());
    ASSERT_TRUE(group[1].mailbox_out->Post(step, last.span()).ok());
  }
  EXPECT_THAT(first.Get(), ElementsAre(1000));
}

TEST(NcclMailbox, AnOwnReaderHasItsSlots) {
  Group group(Shape(2, 1));
  OnDeviceArray<int32_t> tokens(group, 0, 1), own(group, 0, 1), other(group, 1, 1);
  EXPECT_EQ(group[0].mailbox_in->Take(1, own.span()).code(), absl::StatusCode::kInternal);
  for (int step = 1; step <= 4; ++step) {
    tokens.Set({step});
    ASSERT_TRUE(group[0].mailbox_out->Post(static_cast<uint64_t>(step), tokens.span()).ok());
  }
  EXPECT_EQ(group[0].mailbox_out->Post(5, tokens.span()).code(), absl::StatusCode::kInternal);
  for (int step = 1; step <= 4; ++step) {
    ASSERT_TRUE(group[0].mailbox_in->Take(static_cast<uint64_t>(step), own.span()).ok());
    ASSERT_TRUE(group[1].mailbox_in->Take(static_cast<uint64_t>(step), other.span()).ok());
    EXPECT_THAT(own.Get(), ElementsAre(step));
    EXPECT_THAT(other.Get(), ElementsAre(step));
  }
  ASSERT_TRUE(group[0].mailbox_out->Post(5, {}).ok());
  ASSERT_TRUE(group[0].mailbox_in->Take(5, {}).ok());
}

TEST(NcclMailbox, MoreTokensThanAMessageHoldsAreRefused) {
  Group group(Shape(1, 1));
  OnDeviceArray<int32_t> tokens(group, 0, 5);
  EXPECT_EQ(group[0].mailbox_out->Post(1, tokens.span()).code(), absl::StatusCode::kInvalidArgument);
}

// ---- what goes wrong

TEST(NcclWatch, ALostPeerIsToldByPollAndByEveryLaterOperation) {
  Group group(Shape(2, 2));
  EXPECT_TRUE(group[0].watch->Poll().ok());
  group.world().Break(absl::UnavailableError("connection reset"));
  const absl::Status lost = group[0].watch->Poll();
  EXPECT_EQ(lost.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(lost), AllOf(HasSubstr("rank 0"), HasSubstr("connection reset")));
  group.world().Break(absl::InternalError("unhandled cuda error"));  // what comes later says less
  OnDeviceArray<uint16_t> data(group, 0, 8);
  EXPECT_EQ(group[0].tensor->AllReduceSum(data.acts(), 8), lost);
  EXPECT_EQ(group[0].next->Send(std::as_bytes(data.span())), lost);
  EXPECT_EQ(group[0].watch->Poll(), lost);
  EXPECT_EQ(group[1].watch->Poll().code(), absl::StatusCode::kInternal);
}

TEST(NcclWatch, TheFlagIsSeenByPollAndByOperations) {
  Group group(Shape(2, 1));
  group.abort(1) = 1;
  EXPECT_EQ(group[1].watch->Poll().code(), absl::StatusCode::kAborted);
  OnDeviceArray<uint16_t> data(group, 1, 8);
  EXPECT_EQ(group[1].tensor->AllReduceSum(data.acts(), 8).code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(group[0].watch->Poll().ok());
}

// An abort frees the device of what waits there for others, in all channels at once.
TEST(NcclWatch, AbortFreesTheDevice) {
  Group group(Shape(2, 2));
  OnDeviceArray<uint16_t> data(group, 2, 8);
  OnDeviceArray<int32_t> tokens(group, 2, 1);
  for (uint64_t step = 1; step <= 6; ++step) ASSERT_TRUE(group[2].mailbox_out->Post(step, tokens.span()).ok());
  ASSERT_TRUE(group[2].tensor->AllReduceSum(data.acts(), 8).ok());
  ASSERT_TRUE(group[2].previous->Receive(std::as_writable_bytes(data.span())).ok());
  const uint64_t mark = group.device(2).Mark().value();
  EXPECT_FALSE(Reached(group, 2, mark));
  group[2].watch->Abort();
  EXPECT_TRUE(group.device(2).Synchronise().ok());
  EXPECT_TRUE(Reached(group, 2, mark));
  EXPECT_EQ(group[2].watch->Poll().code(), absl::StatusCode::kAborted);
}

// A device that fails does not keep the host from ending.
TEST(NcclWatch, AFailedDeviceEndsTheRank) {
  Group group(Shape(2, 1));
  OnDeviceArray<uint16_t> data(group, 0, 8);
  OnDeviceArray<int32_t> tokens(group, 0, 1);
  for (uint64_t step = 1; step <= 4; ++step) ASSERT_TRUE(group[0].mailbox_out->Post(step, tokens.span()).ok());
  cuda::emulated::FailLaunch(group.device(0), 1);
  absl::Status status = group[0].tensor->AllReduceSum(data.acts(), 8);
  while (status.ok()) status = group.device(0).Reached(1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
}

// Work that runs as late as it may gives the same.
TEST(NcclChannels, ADeviceThatPutsOffItsWorkGivesTheSame) {
  Group group(Shape(2, 1), Pace::kLazy);
  OnDeviceArray<uint16_t> first(group, 0, 40), second(group, 1, 40);
  first.Set(Half(std::vector<float>(40, 3.0f)));
  second.Set(Half(std::vector<float>(40, 4.0f)));
  ASSERT_TRUE(group[0].tensor->AllReduceSum(first.acts(), 40).ok());
  ASSERT_TRUE(group[1].tensor->AllReduceSum(second.acts(), 40).ok());
  const uint64_t mark = group.device(1).Mark().value();
  EXPECT_FALSE(Reached(group, 1, mark));
  EXPECT_EQ(first.Get(), Half(std::vector<float>(40, 7.0f)));
  EXPECT_EQ(second.Get(), Half(std::vector<float>(40, 7.0f)));
}

}  // namespace
}  // namespace shoal::comm
