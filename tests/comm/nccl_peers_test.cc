// Peer memory as a group comes to it: where devices reach each other and where they do not, sums that come out wrong, a
// peer that is lost while the device waits for it, and the next group on the same devices. Ranks are threads with
// emulated devices.
#include "worker/comm/nccl_peers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <deque>
#include <functional>
#include <future>
#include <thread>

#include "common/base/dtype.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/table.h"
#include "tests/comm/nccl_group.h"

namespace shoal::comm {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

// Devices 0, 1, ... as a test wants them, and groups on them, one after the other.
class Hosts {
 public:
  explicit Hosts(int ranks) : ranks_(ranks), options_(static_cast<size_t>(ranks)) {
    for (int r = 0; r < ranks; ++r) {
      options_[static_cast<size_t>(r)].table = &cuda::Table();
      options_[static_cast<size_t>(r)].device = r;
    }
  }
  ~Hosts() { End(); }

  // So many looks until a communicator of rank 0 is up.
  void SlowFirst(int looks) { looks_of_first_ = looks; }
  cuda::EmulatedOptions& options(int r) { return options_[static_cast<size_t>(r)]; }
  ops::Accelerator& device(int r) {
    while (devices_.size() < options_.size()) devices_.push_back(MakeEmulatedAccelerator(options_[devices_.size()]));
    return *devices_[static_cast<size_t>(r)];
  }
  RankComm& operator[](int r) { return comms_[static_cast<size_t>(r)]; }
  AbortFlag& abort(int r) { return flags_[static_cast<size_t>(r)]; }

  // A new group; `change` may touch what the ranks have published.
  std::vector<absl::Status> Connect(AllReducePolicy policy, DurationNs patience = 10 * kSecond,
                                    const std::function<void(std::vector<NcclAddress>&)>& change = nullptr) {
    End();
    ++generation_;
    flags_ = std::deque<AbortFlag>(static_cast<size_t>(ranks_));
    std::vector<std::unique_ptr<NcclRendezvous>> rendezvous;
    std::vector<NcclAddress> addresses;
    for (int r = 0; r < ranks_; ++r) {
      libraries_.push_back(MakeEmulatedNccl(&world_, "2.28.9", r == 0 ? looks_of_first_ : kNcclLooks));
      auto opened = NcclRendezvous::Open({.api = libraries_.back().get(),
                                          .accelerator = &device(r),
                                          .shape = {.tp = ranks_, .pp = 1, .max_activation_bytes = 64},
                                          .rank = r,
                                          .generation = generation_,
                                          .abort = &abort(r),
                                          .all_reduce = policy,
                                          .peer_patience = patience});
      if (!opened.ok()) return {opened.status()};
      addresses.push_back(DecodeNcclAddress((*opened)->address(), ranks_).value());
      rendezvous.push_back(*std::move(opened));
    }
    if (change != nullptr) change(addresses);
    std::vector<std::string> texts;
    for (const NcclAddress& address : addresses) texts.push_back(EncodeAddress(address));
    std::vector<std::future<absl::StatusOr<RankComm>>> connecting;
    for (auto& one : rendezvous) {
      connecting.push_back(std::async(std::launch::async, [&] { return one->Connect(texts, 30 * kSecond); }));
    }
    std::vector<absl::Status> results;
    for (auto& one : connecting) {
      auto connected = one.get();
      results.push_back(connected.status());
      if (connected.ok()) comms_.push_back(*std::move(connected));
    }
    return results;
  }

  // What the ranks say about their sums, once they are connected and a sum has come out right.
  std::vector<std::string> SumsAfter(AllReducePolicy policy, DurationNs patience = 10 * kSecond,
                                     const std::function<void(std::vector<NcclAddress>&)>& change = nullptr) {
    for (const absl::Status& s : Connect(policy, patience, change)) EXPECT_TRUE(s.ok()) << s;
    ExpectSum(1);
    std::vector<std::string> sums;
    for (const RankComm& comm : comms_) sums.push_back(comm.sums);
    return sums;
  }

  // Rank r adds `unit` * (r + 1).
  void ExpectSum(float unit) {
    std::vector<std::future<float>> sums;
    for (int r = 0; r < static_cast<int>(comms_.size()); ++r) {
      sums.push_back(
          std::async(std::launch::async, [this, r, unit] { return Sum(r, unit * static_cast<float>(r + 1)); }));
    }
    for (auto& sum : sums) EXPECT_EQ(sum.get(), unit * static_cast<float>(ranks_ * (ranks_ + 1) / 2));
  }

  // Enqueued, and left alone: device memory until the group ends.
  uint16_t* Enqueue(int r, float mine) {
    auto* const data = static_cast<uint16_t*>(device(r).Allocate(sizeof(uint16_t)).value());
    auto* const pinned = static_cast<uint16_t*>(device(r).AllocatePinned(sizeof(uint16_t)).value());
    *pinned = F32ToBF16(mine);
    EXPECT_TRUE(device(r).CopyIn(data, pinned, sizeof(uint16_t)).ok());
    EXPECT_TRUE((*this)[r].tensor->AllReduceSum(ops::Acts(static_cast<void*>(data)), 1).ok());
    EXPECT_TRUE(device(r).CopyOut(pinned, data, sizeof(uint16_t)).ok());
    return pinned;
  }
  float Sum(int r, float mine) {
    const uint16_t* const sum = Enqueue(r, mine);
    EXPECT_TRUE(AwaitDevice((*this)[r], device(r)).ok());
    return BF16ToF32(*sum);
  }

 private:
  // Nothing of a group may wait for other ranks any more when its channels go.
  void End() {
    for (RankComm& comm : comms_) comm.watch->Abort();
    comms_.clear();
  }

  const int ranks_;
  int looks_of_first_ = kNcclLooks;
  uint64_t generation_ = 0;
  NcclWorld world_;
  std::vector<cuda::EmulatedOptions> options_;
  std::vector<std::unique_ptr<NcclApi>> libraries_;
  std::vector<std::unique_ptr<ops::Accelerator>> devices_;
  std::deque<AbortFlag> flags_;
  std::vector<RankComm> comms_;
};

int64_t PeerBytes(const RankComm& comm) { return comm.stats->over(Transport::kPeer).tensor; }
int64_t NcclBytes(const RankComm& comm) { return comm.stats->over(Transport::kNccl).tensor; }

TEST(NcclPeers, DevicesThatReachEachOtherSumUpThere) {
  for (const auto policy : {AllReducePolicy::kAuto, AllReducePolicy::kOneShot}) {
    Hosts hosts(3);
    EXPECT_THAT(hosts.SumsAfter(policy), Each(HasSubstr("up to 512 KiB in one shot over peer memory")));
    EXPECT_EQ(PeerBytes(hosts[1]), 4);
    EXPECT_EQ(NcclBytes(hosts[1]), 0);
  }
}

TEST(NcclPeers, NcclIsTakenWhenToldSo) {
  Hosts hosts(2);
  EXPECT_THAT(hosts.SumsAfter(AllReducePolicy::kNccl), Each("all-reduce over NCCL, no peer memory: as told"));
  EXPECT_EQ(PeerBytes(hosts[0]), 0);
  EXPECT_EQ(NcclBytes(hosts[0]), 2);
}

TEST(NcclPeers, OneRankHasNothingToSumUp) {
  Hosts hosts(1);
  EXPECT_THAT(hosts.SumsAfter(AllReducePolicy::kOneShot), Each(""));
}

// Patience is for what peer memory takes, not for communicators that some ranks have up later than others.
TEST(NcclPeers, RanksThatComeLateAreWaitedFor) {
  Hosts hosts(2);
  hosts.SlowFirst(4000);  // looks are 500 us apart
  EXPECT_THAT(hosts.SumsAfter(AllReducePolicy::kAuto, kSecond), Each(HasSubstr("in one shot over peer memory")));
}

// One device that does not reach the others keeps all of them from it, and each says what it knows.
TEST(NcclPeers, OneThatReachesNobodyIsEnoughForNccl) {
  Hosts hosts(3);
  hosts.options(2).reaches_peers = false;
  const auto sums = hosts.SumsAfter(AllReducePolicy::kAuto);
  EXPECT_THAT(sums, Each(HasSubstr("all-reduce over NCCL, no peer memory: ")));
  EXPECT_THAT(sums[0], HasSubstr("rank 2 cannot use it"));
  EXPECT_THAT(sums[2], HasSubstr("tensor rank 0: device 2 does not reach the memory of device 0"));
  EXPECT_EQ(PeerBytes(hosts[0]), 0);
}

// A device reaches its own memory, whoever has made it.
TEST(NcclPeers, RanksOnOneDeviceHaveIt) {
  Hosts hosts(2);
  for (int r = 0; r < 2; ++r) {
    hosts.options(r).device = 0;
    hosts.options(r).reaches_peers = false;
  }
  EXPECT_THAT(hosts.SumsAfter(AllReducePolicy::kAuto), Each(HasSubstr("in one shot over peer memory")));
  EXPECT_EQ(PeerBytes(hosts[1]), 2);
}

TEST(NcclPeers, WhereItIsWantedItsWantIsAnErrorThatSaysWhatHelps) {
  Hosts hosts(2);
  hosts.options(1).reaches_peers = false;
  for (const absl::Status& s : hosts.Connect(AllReducePolicy::kOneShot)) {
    EXPECT_EQ(s.code(), absl::StatusCode::kFailedPrecondition) << s;
    EXPECT_THAT(std::string(s.message()), HasSubstr("--all-reduce one-shot: no peer memory: "));
    EXPECT_THAT(std::string(s.message()), HasSubstr("; --all-reduce auto does without it"));
  }
}

TEST(NcclPeers, RanksOfDifferentHostsDoWithout) {
  Hosts hosts(2);
  const auto elsewhere = [](std::vector<NcclAddress>& all) { all[1].peer->host = "ffff"; };
  EXPECT_THAT(hosts.SumsAfter(AllReducePolicy::kAuto, kSecond, elsewhere),
              Each(HasSubstr("ranks 0 and 1 are on different hosts")));
  const auto larger = [](std::vector<NcclAddress>& all) { all[1].peer->bytes *= 2; };
  EXPECT_THAT(hosts.SumsAfter(AllReducePolicy::kAuto, kSecond, larger), Each(HasSubstr("areas of different sizes")));
  const auto none = [](std::vector<NcclAddress>& all) { all[0].peer.reset(); };
  EXPECT_THAT(hosts.SumsAfter(AllReducePolicy::kAuto, kSecond, none), Each(HasSubstr("rank 0 shares none")));
}

TEST(NcclPeers, APortThatNobodyListensOnIsFoundOutByAll) {
  Hosts hosts(2);
  const auto gone = [](std::vector<NcclAddress>& all) { all[1].peer->port.assign(DescriptorPort::kAddressBytes, '0'); };
  const auto sums = hosts.SumsAfter(AllReducePolicy::kAuto, 100 * kMillisecond, gone);
  EXPECT_THAT(sums[0], HasSubstr("tensor rank 1: cannot reach its local socket"));
  EXPECT_THAT(sums[1], HasSubstr("no descriptor came from tensor ranks 0"));
}

TEST(NcclPeers, OpsWithoutItDoWithout) {
  ops::OpTable table = cuda::Table();
  table.all_reduce = nullptr;
  Hosts hosts(2);
  hosts.options(0).table = &table;
  const auto sums = hosts.SumsAfter(AllReducePolicy::kAuto);
  EXPECT_THAT(sums[0], HasSubstr("cuda-sm80 has no operation over memory that devices share"));
  EXPECT_THAT(sums[1], HasSubstr("rank 0 shares none"));
  EXPECT_EQ(hosts.Connect(AllReducePolicy::kOneShot)[0].code(), absl::StatusCode::kFailedPrecondition);
}

// Links on which data do not arrive: what is summed is wrong, and the ranks that wait for flags do not wait for ever.
TEST(NcclPeers, SumsThatComeOutWrongAreFoundBeforeTheGroupIsUp) {
  ops::OpTable nothing = cuda::Table();
  nothing.all_reduce = [](ops::Stream&, const ops::AllReduceArgs&) { return absl::OkStatus(); };
  Hosts hosts(2);
  hosts.options(1).table = &nothing;
  const auto sums = hosts.SumsAfter(AllReducePolicy::kAuto, 200 * kMillisecond);
  EXPECT_THAT(sums[0], HasSubstr("a sum over it was not done in time"));
  EXPECT_THAT(sums[1], HasSubstr("element 0 of a sum over it is 2, not 3"));
  EXPECT_EQ(PeerBytes(hosts[0]), 0);
}

// A group that is aborted while it comes up, as when a rank dies: whatever the ranks wait for in the middle of it,
// descriptors, votes or a first sum, ends.
TEST(NcclPeers, AnAbortEndsTheWaitsOfComingUp) {
  ops::OpTable nothing = cuda::Table();
  nothing.all_reduce = [](ops::Stream&, const ops::AllReduceArgs&) { return absl::OkStatus(); };
  const auto gone = [](std::vector<NcclAddress>& all) { all[1].peer->port.assign(DescriptorPort::kAddressBytes, '0'); };
  for (const bool sums : {false, true}) {
    Hosts hosts(2);
    if (sums) hosts.options(1).table = &nothing;
    const auto begin = RealClock().Now();
    std::thread aborts;
    const auto change = [&](std::vector<NcclAddress>& all) {
      if (!sums) gone(all);
      aborts = std::thread([&hosts] {
        std::this_thread::sleep_for(std::chrono::milliseconds(300));  // by then they wait; if not, they end as well
        for (int r = 0; r < 2; ++r) hosts.abort(r) = 1;
      });
    };
    for (const absl::Status& s : hosts.Connect(AllReducePolicy::kAuto, 25 * kSecond, change)) {
      EXPECT_EQ(s.code(), absl::StatusCode::kAborted) << s;
    }
    EXPECT_LT(RealClock().Now() - begin, 20 * kSecond) << "not by a limit of time";
    aborts.join();
  }
}

// A rank whose peer never comes: the flag alone frees its device, also of what is recorded and launched.
TEST(NcclPeers, AnAbortEndsWhatWaitsOnTheDevice) {
  Hosts hosts(2);
  for (const absl::Status& s : hosts.Connect(AllReducePolicy::kOneShot)) ASSERT_TRUE(s.ok()) << s;
  void* const data = hosts.device(0).Allocate(64).value();
  ASSERT_TRUE(hosts.device(0).BeginCapture().ok());
  ASSERT_TRUE(hosts[0].tensor->AllReduceSum(ops::Acts(data), 32).ok());
  auto graph = hosts.device(0).EndCapture().value();
  ASSERT_TRUE(hosts.device(0).Launch(*graph).ok());
  ASSERT_TRUE(hosts.device(0).Launch(*graph).ok());
  const uint64_t mark = hosts.device(0).Mark().value();
  EXPECT_TRUE(hosts[0].watch->Poll().ok());
  EXPECT_FALSE(hosts.device(0).Reached(mark).value());
  hosts.abort(0) = 1;
  EXPECT_EQ(hosts[0].watch->Poll().code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(hosts.device(0).Synchronise().ok());
  EXPECT_TRUE(hosts.device(0).Reached(mark).value());
  graph = nullptr;
  EXPECT_EQ(hosts[0].tensor->AllReduceSum(ops::Acts(data), 32).code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(hosts[1].watch->Poll().ok());
}

// A group is lost in the middle of a sum, with ranks that have come to different rounds. The next one on the same
// devices begins at nought, whatever the last one left.
TEST(NcclPeers, TheNextGroupBeginsAnew) {
  Hosts hosts(3);
  for (int round = 0; round < 3; ++round) {
    for (const absl::Status& s : hosts.Connect(AllReducePolicy::kOneShot)) ASSERT_TRUE(s.ok()) << s;
    for (int i = 0; i < 5 + round; ++i) hosts.ExpectSum(static_cast<float>(i + 1));
    hosts.Enqueue(0, 1);
    hosts.Enqueue(0, 1);
    hosts.Enqueue(1, 1);
  }
  hosts.SumsAfter(AllReducePolicy::kOneShot);
}

// Sums, and NCCL's operations between them, in one order on all ranks.
TEST(NcclPeers, GoesTogetherWithOperationsOfNccl) {
  Hosts hosts(2);
  for (const absl::Status& s : hosts.Connect(AllReducePolicy::kAuto)) ASSERT_TRUE(s.ok()) << s;
  constexpr int64_t kLarge = (1 << 19) + 8;  // bf16: more than goes over peer memory
  std::vector<std::future<absl::Status>> ranks;
  for (int r = 0; r < 2; ++r) {
    ranks.push_back(std::async(std::launch::async, [&hosts, r]() -> absl::Status {
      ops::Accelerator& device = hosts.device(r);
      SHOAL_ASSIGN_OR_RETURN(void* const data, device.Allocate(kLarge * sizeof(uint16_t)));
      SHOAL_RETURN_IF_ERROR(device.Fill(data, 0, kLarge * sizeof(uint16_t)));
      for (int i = 0; i < 6; ++i) {
        SHOAL_RETURN_IF_ERROR(hosts[r].tensor->AllReduceSum(ops::Acts(data), i % 2 == 0 ? 100 : kLarge));
      }
      return AwaitDevice(hosts[r], device);
    }));
  }
  for (auto& rank : ranks) EXPECT_TRUE(rank.get().ok());
  EXPECT_GT(NcclBytes(hosts[0]), 0);
  EXPECT_EQ(PeerBytes(hosts[0]), 3 * 200);
  hosts.ExpectSum(3);
}

}  // namespace
}  // namespace shoal::comm
