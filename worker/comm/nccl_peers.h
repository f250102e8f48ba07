// How the tensor ranks of a stage come to memory that all of them share, or agree that they do without.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/comm/nccl_address.h"
#include "worker/comm/nccl_rank.h"
#include "worker/comm/peer_memory.h"

namespace shoal::comm {

// What this rank can offer; null, with the reason in `why`: nothing. FailedPrecondition: nothing, and the policy wants
// it.
absl::StatusOr<std::unique_ptr<PeerMemory>> OfferPeerMemory(const NcclSetup& setup, std::string* why);

// `memory`: what OfferPeerMemory gave; `link`: of the tensor ranks, or null; `addresses`: of all ranks. Maps the areas
// of the others, tries sums on them, and gives them to `rank` when all tensor ranks found them right: either all have
// peers() then, or none. What happened, in words, is returned for a log. Errors: those that end the group, and
// FailedPrecondition where the policy wants peer memory and there is none.
absl::StatusOr<std::string> ConnectPeers(NcclRank& rank, NcclLink* link, std::unique_ptr<PeerMemory> memory,
                                         const std::string& why, const std::vector<NcclAddress>& addresses);

}  // namespace shoal::comm
