// Tested by: tests/comm/nccl_peers_test.cc
#include "worker/comm/nccl_peers.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/dtype.h"
#include "common/base/status_macros.h"
#include "kernels/ops/all_reduce.h"
#include "worker/comm/all_reduce.h"

namespace shoal::comm {
namespace {

constexpr auto kPause = std::chrono::microseconds(200);

// Three rounds: both slots, and the first again.
constexpr int kTrials = 3;
constexpr int64_t kTrialCount = 6000;  // several blocks; the last unit is not whole

using Offers = std::vector<PeerOffer>;

// Of the tensor ranks in order; the same answer on all of them.
absl::StatusOr<Offers> OffersOf(const NcclSetup& setup, const std::vector<NcclAddress>& addresses) {
  const int tp = setup.shape.tp, first = setup.rank / tp * tp;
  if (PeerAllReduceBytes(tp) == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("it is for at most ", ops::kAllReduceMaxRanks, " ranks, and there are ", tp));
  }
  Offers offers;
  for (int r = first; r < first + tp; ++r) {
    const auto& offer = addresses[static_cast<size_t>(r)].peer;
    if (!offer.has_value()) return absl::FailedPreconditionError(absl::StrCat("rank ", r, " shares none"));
    if (!offers.empty() && offer->host != offers.front().host) {
      return absl::FailedPreconditionError(absl::StrCat("ranks ", first, " and ", r, " are on different hosts"));
    }
    if (!offers.empty() && offer->bytes != offers.front().bytes) {
      return absl::FailedPreconditionError(
          absl::StrCat("ranks ", first, " and ", r, " share areas of different sizes"));
    }
    offers.push_back(*offer);
  }
  return offers;
}

// Memory for words and values that go between host and device, freed when nothing of it is under way.
class Exchange {
 public:
  Exchange(NcclRank& rank, size_t bytes) : accelerator_(rank.accelerator()), bytes_(bytes) {}
  ~Exchange() {
    if (pinned_ != nullptr) accelerator_.FreePinned(pinned_);
  }
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  absl::Status Make(NcclRank& rank) {
    SHOAL_ASSIGN_OR_RETURN(device_, rank.Allocate(bytes_));
    SHOAL_ASSIGN_OR_RETURN(pinned_, accelerator_.AllocatePinned(bytes_));
    return absl::OkStatus();
  }
  std::byte* device() const { return device_; }
  template <typename T>
  T* host() const {
    return static_cast<T*>(pinned_);
  }
  absl::Status Put(size_t bytes) { return accelerator_.CopyIn(device_, pinned_, bytes); }
  absl::Status Get() { return accelerator_.CopyOut(pinned_, device_, bytes_); }

 private:
  ops::Accelerator& accelerator_;
  const size_t bytes_;
  std::byte* device_ = nullptr;
  void* pinned_ = nullptr;
};

// What every tensor rank says, by tensor rank. All call it at the same place.
absl::StatusOr<std::vector<bool>> Vote(NcclRank& rank, NcclLink& link, bool yes) {
  constexpr size_t kBytes = 16;  // a whole vector
  const auto ranks = static_cast<size_t>(link.size());
  Exchange words(rank, kBytes * (ranks + 1));  // the own word, then those of all
  SHOAL_RETURN_IF_ERROR(words.Make(rank));
  auto* const bytes = words.host<uint8_t>();
  std::fill_n(bytes, kBytes, yes ? 1 : 0);
  const absl::Status told = [&]() -> absl::Status {
    SHOAL_RETURN_IF_ERROR(words.Put(kBytes));
    SHOAL_RETURN_IF_ERROR(link.AllGather(words.device(), words.device() + kBytes, kBytes));
    SHOAL_RETURN_IF_ERROR(words.Get());
    return rank.AwaitQueue();
  }();
  if (!told.ok()) {
    rank.Abort();  // copies to this memory may wait behind what will never come
    rank.accelerator().Synchronise().IgnoreError();
    return told;
  }
  std::vector<bool> votes;
  for (size_t r = 0; r < ranks; ++r) votes.push_back(bytes[kBytes * (r + 1)] == 1);
  return votes;
}

// Of element i of tensor rank r: sums of 8 ranks are whole numbers that bf16 has.
float TrialValue(int rank, int64_t i) { return static_cast<float>(i % 3 + rank + 1); }

// Until the queue has come to `mark`. A wait that has lasted too long is ended on the device: DeadlineExceeded.
absl::Status AwaitTrial(NcclRank& rank, PeerMemory& memory, uint64_t mark) {
  const RealClock clock;
  const TimeNs end = std::min(clock.Now() + rank.setup().peer_patience, rank.deadline());
  absl::Status ended;
  while (true) {
    SHOAL_ASSIGN_OR_RETURN(const bool reached, rank.accelerator().Reached(mark));
    if (reached) return ended;
    if (ended.ok()) {
      ended = rank.Poll();
      if (ended.ok() && clock.Now() >= end) {
        ended = absl::DeadlineExceededError("a sum over it was not done in time");
      }
      if (!ended.ok()) memory.Abort();
    }
    std::this_thread::sleep_for(kPause);
  }
}

// Sums whose values are known. DataLoss: they came out wrong.
absl::Status Try(NcclRank& rank, PeerMemory& memory, int index, int ranks) {
  const size_t bytes = kTrialCount * sizeof(uint16_t);
  Exchange values(rank, bytes);
  SHOAL_RETURN_IF_ERROR(values.Make(rank));
  auto* const half = values.host<uint16_t>();
  for (int trial = 0; trial < kTrials; ++trial) {
    for (int64_t i = 0; i < kTrialCount; ++i) half[i] = F32ToBF16(TrialValue(index, i));
    SHOAL_RETURN_IF_ERROR(values.Put(bytes));
    SHOAL_RETURN_IF_ERROR(memory.AllReduceSum(ops::Acts(static_cast<void*>(values.device())), kTrialCount));
    SHOAL_RETURN_IF_ERROR(values.Get());
    SHOAL_ASSIGN_OR_RETURN(const uint64_t mark, rank.accelerator().Mark());
    SHOAL_RETURN_IF_ERROR(AwaitTrial(rank, memory, mark));
    for (int64_t i = 0; i < kTrialCount; ++i) {
      float sum = 0;
      for (int r = 0; r < ranks; ++r) sum += TrialValue(r, i);
      if (BF16ToF32(half[i]) != sum) {
        return absl::DataLossError(
            absl::StrCat("element ", i, " of a sum over it is ", BF16ToF32(half[i]), ", not ", sum));
      }
    }
  }
  return absl::OkStatus();
}

// The group goes on without peer memory where others said no.
absl::Status Agreed(const std::vector<bool>& votes, int first_rank) {
  const auto no = std::find(votes.begin(), votes.end(), false);
  if (no == votes.end()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("rank ", first_rank + (no - votes.begin()), " cannot use it"));
}

absl::Status Wanted(const std::string& why) {
  return absl::FailedPreconditionError(
      absl::StrCat("--all-reduce one-shot: no peer memory: ", why, "; --all-reduce auto does without it"));
}

// What the group cannot survive, beside what merely rules out peer memory.
bool EndsTheGroup(NcclRank& rank, const absl::Status& status) {
  return absl::IsInternal(status) || absl::IsAborted(status) || !rank.Check().ok();
}

// One step that may fail on some ranks, and what becomes of it on all.
absl::Status Together(NcclRank& rank, NcclLink& link, const absl::Status& mine) {
  if (!mine.ok() && EndsTheGroup(rank, mine)) return mine;
  SHOAL_ASSIGN_OR_RETURN(const std::vector<bool> votes, Vote(rank, link, mine.ok()));
  SHOAL_RETURN_IF_ERROR(mine);
  return Agreed(votes, rank.setup().rank / rank.setup().shape.tp * rank.setup().shape.tp);
}

absl::Status MapAndTry(NcclRank& rank, NcclLink& link, PeerMemory& memory, const Offers& offers) {
  // Once all are here: some have had more communicators to make than others.
  SHOAL_RETURN_IF_ERROR(Together(rank, link, absl::OkStatus()));
  const TimeNs deadline = std::min(RealClock().Now() + rank.setup().peer_patience, rank.deadline());
  const auto check = [&rank] { return rank.Check(); };
  SHOAL_RETURN_IF_ERROR(Together(rank, link, memory.Map(offers, link.index(), deadline, check)));
  return Together(rank, link, Try(rank, memory, link.index(), link.size()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<PeerMemory>> OfferPeerMemory(const NcclSetup& setup, std::string* why) {
  if (setup.shape.tp == 1) return nullptr;
  if (setup.all_reduce == AllReducePolicy::kNccl) {
    *why = "as told";
    return nullptr;
  }
  absl::StatusOr<std::unique_ptr<PeerMemory>> memory = PeerMemory::Create(setup.accelerator);
  if (memory.ok()) return memory;
  if (absl::IsInternal(memory.status())) return memory;  // the device has failed
  if (setup.all_reduce == AllReducePolicy::kOneShot) return Wanted(std::string(memory.status().message()));
  *why = std::string(memory.status().message());
  return nullptr;
}

absl::StatusOr<std::string> ConnectPeers(NcclRank& rank, NcclLink* link, std::unique_ptr<PeerMemory> memory,
                                         const std::string& why, const std::vector<NcclAddress>& addresses) {
  if (link == nullptr) return std::string();
  const NcclSetup& setup = rank.setup();
  const absl::StatusOr<Offers> offers = OffersOf(setup, addresses);
  absl::Status connected = offers.status();
  if (offers.ok()) {
    if (memory == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("rank ", setup.rank, " has published no peer memory"));
    }
    connected = MapAndTry(rank, *link, *memory, *offers);
    if (connected.ok()) {
      rank.SetPeers(std::move(memory));
      return absl::StrCat("all-reduce up to ", PeerAllReduceBytes(link->size()) >> 10,
                          " KiB in one shot over peer memory, above over NCCL");
    }
    if (EndsTheGroup(rank, connected)) return connected;
    // What was enqueued on it is done, or is over before it goes.
    SHOAL_RETURN_IF_ERROR(rank.AwaitQueue());
  }
  const std::string reason = why.empty() ? std::string(connected.message()) : why;
  if (setup.all_reduce == AllReducePolicy::kOneShot) return Wanted(reason);
  return absl::StrCat("all-reduce over NCCL, no peer memory: ", reason);
}

}  // namespace shoal::comm
