// Ranks with a device each: data go from device to device, enqueued among the device's other work. NCCL moves bytes;
// the sums are ours, in rank order, and small ones need no NCCL where the devices reach each other's memory. A rank
// publishes what others need to join it, then connects, once it has what all have published. A group that has lost a
// rank is of no use any more.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/ops/accelerator.h"
#include "worker/comm/all_reduce.h"
#include "worker/comm/collective.h"
#include "worker/comm/nccl_api.h"
#include "worker/comm/wait_note.h"

namespace shoal::comm {

struct NcclSetup {
  NcclApi* api = nullptr;  // nccl_plugin.h
  ops::Accelerator* accelerator = nullptr;
  GroupShape shape;
  int rank = 0;
  uint64_t generation = 0;  // the epoch: the same for all ranks
  const AbortFlag* abort = nullptr;
  WaitNote* note = nullptr;  // where waits are noted, or null
  AllReducePolicy all_reduce = AllReducePolicy::kAuto;
  // For all ranks to be heard of over peer memory, and for a sum that tries it: ranks on one device take turns of some
  // milliseconds.
  DurationNs peer_patience = 10 * kSecond;
};

// The thread that opened the accelerator; what `setup` names outlives this and what comes of it.
class NcclRendezvous {
 public:
  // FailedPrecondition: no NCCL that will do, or no memory to be shared where the policy is kOneShot. Internal: NCCL's
  // words.
  static absl::StatusOr<std::unique_ptr<NcclRendezvous>> Open(const NcclSetup& setup);
  virtual ~NcclRendezvous() = default;

  // What the other ranks need in order to join; text, bounded by kMaxAddressBytes. Who has it can join the group.
  virtual const std::string& address() const = 0;

  // Once. `addresses`: of all ranks of the group, by rank. Blocks until every communicator is up and has carried data.
  // InvalidArgument: malformed; FailedPrecondition: of another generation, shape or rank, another NCCL, or devices that
  // do not reach each other's memory where the policy is kOneShot;
  // DeadlineExceeded after `timeout`, with the ranks that were waited for; Aborted; Unavailable: a peer is gone;
  // ResourceExhausted: no device memory.
  virtual absl::StatusOr<RankComm> Connect(std::span<const std::string> addresses, DurationNs timeout) = 0;
};

}  // namespace shoal::comm
