// Tested by: tests/rank/process_comm_test.cc
#include "worker/rank/process_comm.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/comm/gloo.h"
#include "worker/comm/nccl.h"
#include "worker/comm/shm.h"

namespace shoal::rank {
namespace {

static_assert(comm::kMaxAddressBytes <= plan::kMaxAddressBytes);

// All ranks have published by then: what is left is a handshake on each connection; for nccl, that it finds out how
// devices are connected, memory for each connection, and a first operation of each kind. Below the 60 s after which the
// agent gives up.
constexpr DurationNs kConnectTimeout = 30 * kSecond, kNcclConnectTimeout = 50 * kSecond;

// What the agent brings, when the coordinator has it of all ranks.
absl::StatusOr<std::vector<std::string>> AwaitAddresses(const plan::RankSetup& setup, plan::RingReader& plans) {
  while (true) {
    SHOAL_ASSIGN_OR_RETURN(const plan::Record record, plans.Next(-1, nullptr));
    if (record.kind == plan::RecordKind::kStop) return absl::AbortedError("told to stop before it was connected");
    if (record.kind != plan::RecordKind::kConnect || record.stamp.epoch != setup.epoch) continue;
    SHOAL_ASSIGN_OR_RETURN(const plan::ConnectRanks connect, plan::DecodeConnect(record.payload));
    if (connect.epoch != setup.epoch) return absl::FailedPreconditionError("addresses of another epoch");
    std::vector<std::string> addresses;
    for (const plan::RankAddress& address : connect.ranks) addresses.push_back(address.bytes);
    return addresses;
  }
}

// `rendezvous`: a GlooListener or an NcclRendezvous.
template <typename Rendezvous>
absl::StatusOr<comm::RankComm> Meet(Rendezvous& rendezvous, const plan::RankSetup& setup, plan::RingReader& plans,
                                    plan::RingWriter& results, ControlPage* page, DurationNs timeout) {
  const plan::Stamp stamp{setup.epoch, setup.coordinator, 0};
  SHOAL_RETURN_IF_ERROR(results.Append(plan::RecordKind::kAddress, stamp, rendezvous.address()));
  page->state.store(static_cast<uint32_t>(plan::RankState::kConnecting), std::memory_order_release);
  SHOAL_ASSIGN_OR_RETURN(const std::vector<std::string> addresses, AwaitAddresses(setup, plans));
  return rendezvous.Connect(addresses, timeout);
}

}  // namespace

absl::StatusOr<comm::RankComm> OpenChannels(const plan::RankSetup& setup, const comm::GroupShape& shape,
                                            std::span<std::byte> segment, plan::RingReader& plans,
                                            plan::RingWriter& results, ControlPage* page, const DeviceParts& device) {
  if (setup.engine.transport == "nccl") {
    if (device.accelerator == nullptr || device.nccl == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat("transport nccl is for ranks on CUDA, and this one is on ", setup.engine.device));
    }
    const auto all_reduce = comm::AllReducePolicyFromName(setup.engine.all_reduce);
    if (!all_reduce.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("all-reduce ", setup.engine.all_reduce, " is not known"));
    }
    SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<comm::NcclRendezvous> rendezvous,
                           comm::NcclRendezvous::Open({.api = device.nccl,
                                                       .accelerator = device.accelerator,
                                                       .shape = shape,
                                                       .rank = setup.rank,
                                                       .generation = setup.epoch,
                                                       .abort = &page->abort,
                                                       .note = &page->waiting,
                                                       .all_reduce = *all_reduce}));
    return Meet(*rendezvous, setup, plans, results, page, kNcclConnectTimeout);
  }
  if (setup.engine.transport != "gloo") {
    return comm::MakeShmRank(shape, setup.rank, setup.epoch, segment, &page->abort, &page->waiting);
  }
  comm::EndOnGlooFault(plan::kLostPeerExit);
  SHOAL_ASSIGN_OR_RETURN(
      const std::unique_ptr<comm::GlooListener> listener,
      comm::GlooListener::Listen(shape, setup.rank, setup.epoch, setup.host, &page->abort, &page->waiting));
  return Meet(*listener, setup, plans, results, page, kConnectTimeout);
}

}  // namespace shoal::rank
