// Tested by: tests/comm/nccl_test.cc
#include "worker/comm/nccl.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/dtype.h"
#include "common/base/status_macros.h"
#include "worker/comm/all_reduce.h"
#include "worker/comm/group_shape.h"
#include "worker/comm/nccl_address.h"
#include "worker/comm/nccl_channels.h"
#include "worker/comm/nccl_peers.h"
#include "worker/comm/nccl_rank.h"

namespace shoal::comm {
namespace {

using Links = std::array<NcclLink*, kNcclKindNames.size()>;  // by kind; null: none

// Addresses come from other processes.
absl::StatusOr<std::vector<NcclAddress>> CheckAddresses(const NcclSetup& setup, std::span<const std::string> texts,
                                                        const std::string& version) {
  const int ranks = setup.shape.tp * setup.shape.pp;
  if (texts.size() != static_cast<size_t>(ranks)) {
    return absl::InvalidArgumentError(absl::StrCat(texts.size(), " addresses for ", ranks, " ranks"));
  }
  std::vector<NcclAddress> all;
  for (int r = 0; r < ranks; ++r) {
    SHOAL_ASSIGN_OR_RETURN(const NcclAddress a, DecodeNcclAddress(texts[r], ranks));
    if (a.rank != r || a.generation != setup.generation || a.shape != ShapeHash(setup.shape)) {
      return absl::FailedPreconditionError(
          absl::StrCat("the address of rank ", r, " is that of rank ", a.rank, " in generation ", a.generation,
                       " of another group than generation ", setup.generation, " of this shape"));
    }
    if (a.version != version) {
      return absl::FailedPreconditionError(absl::StrCat("rank ", r, " has NCCL ", a.version, ", rank ", setup.rank,
                                                        " has ", version, ": all hosts need the same"));
    }
    all.push_back(a);
  }
  return all;
}

absl::StatusOr<Links> JoinAll(NcclRank& rank, const std::vector<NcclAddress>& addresses) {
  Links links = {};
  for (NcclMembers& members : NcclMembersOf(rank.setup().shape, rank.setup().rank)) {
    const NcclKind kind = members.kind;
    const auto& ids = addresses[static_cast<size_t>(members.ranks.front())].ids;
    const auto id = ids.find(kind);
    if (id == ids.end()) {
      return absl::InvalidArgumentError(absl::StrCat("rank ", members.ranks.front(), " has published no id for the ",
                                                     std::string(kNcclKindNames[static_cast<size_t>(kind)]),
                                                     " channel"));
    }
    SHOAL_ASSIGN_OR_RETURN(links[static_cast<size_t>(kind)], rank.Join(id->second, std::move(members)));
  }
  return links;
}

absl::StatusOr<RankComm> MakeChannels(const std::shared_ptr<NcclRank>& rank, const Links& links) {
  const GroupShape& shape = rank->setup().shape;
  const int stage = rank->setup().rank / shape.tp;
  RankComm comm;
  SHOAL_ASSIGN_OR_RETURN(comm.tensor, MakeNcclTensor(rank, links[static_cast<size_t>(NcclKind::kTensor)]));
  NcclLink* const line = links[static_cast<size_t>(NcclKind::kStage)];
  if (stage + 1 < shape.pp) comm.next = MakeNcclSender(rank, line);
  if (stage > 0) comm.previous = MakeNcclReceiver(rank, line);
  SHOAL_ASSIGN_OR_RETURN(NcclMailboxes mail, MakeNcclMailboxes(rank, links[static_cast<size_t>(NcclKind::kToken)]));
  comm.mailbox_out = std::move(mail.out);
  comm.mailbox_in = std::move(mail.in);
  comm.stats = &rank->stats;
  comm.watch = rank.get();
  comm.keep_alive = rank;
  return comm;
}

// One operation of each kind. NCCL connects two ranks when they first exchange something, and then its host threads
// wait for each other: that must neither come later nor inside a captured graph.
absl::Status FirstData(NcclRank& rank, const RankComm& comm) {
  const int ranks = comm.tensor->size();
  const size_t element = RowBytes(rank.accelerator().table().acts, 1);
  // Beyond `bytes`, in slices of all ranks that are alike.
  const auto beyond = [&](size_t bytes) {
    return static_cast<int64_t>(bytes / element / static_cast<size_t>(ranks) / 8 + 1) * ranks * 8;
  };
  const size_t peer_bytes = PeerAllReduceBytes(ranks);
  const int64_t two_shot = beyond(std::max(peer_bytes, NcclOneShotBytes()));
  SHOAL_ASSIGN_OR_RETURN(std::byte* const data, rank.Allocate(static_cast<size_t>(two_shot) * element));
  SHOAL_RETURN_IF_ERROR(rank.accelerator().Fill(data, 0, static_cast<size_t>(two_shot) * element));
  for (const int64_t count : {int64_t{8}, beyond(peer_bytes), two_shot}) {
    SHOAL_RETURN_IF_ERROR(comm.tensor->AllReduceSum(ops::Acts(static_cast<void*>(data)), count));
  }
  constexpr size_t kBytes = 64;
  if (comm.previous != nullptr) SHOAL_RETURN_IF_ERROR(comm.previous->Receive({data, kBytes}));
  if (comm.next != nullptr) SHOAL_RETURN_IF_ERROR(comm.next->Send({data, kBytes}));
  const size_t tokens = rank.setup().shape.max_samples > 0 ? 1 : 0;
  auto* const token = reinterpret_cast<int32_t*>(data);
  if (comm.mailbox_out != nullptr) SHOAL_RETURN_IF_ERROR(comm.mailbox_out->Post(0, {token, tokens}));
  if (comm.mailbox_in != nullptr) SHOAL_RETURN_IF_ERROR(comm.mailbox_in->Take(0, {token, tokens}));
  return absl::OkStatus();
}

class Rendezvous final : public NcclRendezvous {
 public:
  Rendezvous(const NcclSetup& setup, std::string version, std::unique_ptr<PeerMemory> memory, std::string why_none,
             const NcclAddress& address)
      : setup_(setup),
        version_(std::move(version)),
        memory_(std::move(memory)),
        why_none_(std::move(why_none)),
        address_(EncodeAddress(address)) {}

  const std::string& address() const override { return address_; }

  absl::StatusOr<RankComm> Connect(std::span<const std::string> addresses, DurationNs timeout) override {
    const TimeNs deadline = RealClock().Now() + timeout;
    SHOAL_ASSIGN_OR_RETURN(const auto decoded, CheckAddresses(setup_, addresses, version_));
    const auto rank = std::make_shared<NcclRank>(setup_, deadline);
    SHOAL_ASSIGN_OR_RETURN(const Links links, JoinAll(*rank, decoded));
    SHOAL_ASSIGN_OR_RETURN(const std::string sums, ConnectPeers(*rank, links[static_cast<size_t>(NcclKind::kTensor)],
                                                                std::move(memory_), why_none_, decoded));
    SHOAL_ASSIGN_OR_RETURN(RankComm comm, MakeChannels(rank, links));
    comm.sums = sums;
    SHOAL_RETURN_IF_ERROR(FirstData(*rank, comm));
    SHOAL_RETURN_IF_ERROR(rank->AwaitQueue());
    rank->Connected();
    return comm;
  }

 private:
  const NcclSetup setup_;
  const std::string version_;
  std::unique_ptr<PeerMemory> memory_;  // until it connects; null: none, and why
  const std::string why_none_, address_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<NcclRendezvous>> NcclRendezvous::Open(const NcclSetup& setup) {
  SHOAL_CHECK(setup.api != nullptr && setup.accelerator != nullptr && setup.abort != nullptr);
  SHOAL_RETURN_IF_ERROR(CheckShape(setup.shape, setup.rank));
  SHOAL_ASSIGN_OR_RETURN(const std::string version, setup.api->Version());
  NcclAddress address = {setup.generation, ShapeHash(setup.shape), setup.rank, version, {}, {}};
  for (const NcclMembers& members : NcclMembersOf(setup.shape, setup.rank)) {
    if (members.index != 0) continue;
    SHOAL_ASSIGN_OR_RETURN(address.ids[members.kind], setup.api->MakeId());
  }
  std::string why_none;
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<PeerMemory> memory, OfferPeerMemory(setup, &why_none));
  if (memory != nullptr) address.peer = memory->offer();
  return std::make_unique<Rendezvous>(setup, version, std::move(memory), why_none, address);
}

}  // namespace shoal::comm
