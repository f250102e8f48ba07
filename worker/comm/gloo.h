// Ranks on several hosts: messages over TCP, carried by Gloo (its unbound sends and receives; the algorithms on top are
// ours). A rank listens and publishes where, then connects to the ranks that it exchanges data with, once it has what
// all of them have published. A group that has lost a connection is of no use any more: its ranks end, and those of a
// new generation connect anew. No exception of Gloo's leaves these files.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "worker/comm/collective.h"
#include "worker/comm/wait_note.h"

namespace shoal::comm {

class GlooListener {
 public:
  // Binds `host` (a name or a numeric address of this machine), with one port for each rank that this one talks to.
  // `generation` (the epoch) must be the same for all ranks. `abort` outlives this and what comes of it. The process
  // must ignore SIGPIPE. `note`: where waits are noted, or null. Unavailable: the address is not of this machine.
  static absl::StatusOr<std::unique_ptr<GlooListener>> Listen(const GroupShape& shape, int rank, uint64_t generation,
                                                              const std::string& host, const AbortFlag* abort,
                                                              WaitNote* note = nullptr);
  virtual ~GlooListener() = default;

  // What the other ranks need in order to connect; text without secrets of the host, bounded by kMaxAddressBytes.
  virtual const std::string& address() const = 0;

  // Once. `addresses`: of all ranks of the group, by rank. Blocks until every peer has connected and has shown that it
  // is the rank that was meant. InvalidArgument: malformed; FailedPrecondition: of another generation, shape or rank;
  // DeadlineExceeded after `timeout`; Aborted; Unavailable: a peer refused or is gone, or a stranger is in its place.
  virtual absl::StatusOr<RankComm> Connect(std::span<const std::string> addresses, DurationNs timeout) = 0;
};

// For std::set_terminate in a process that is a rank: Gloo's thread may throw where nobody can catch, for instance when
// a stranger speaks to its port. Ends the process with `exit_code` for that, and as usual for anything else.
void EndOnGlooFault(int exit_code);

}  // namespace shoal::comm
