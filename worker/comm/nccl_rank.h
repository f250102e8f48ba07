// A rank's communicators, the memory of its channels, and what went wrong.
#pragma once

#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/comm/nccl.h"
#include "worker/comm/nccl_address.h"
#include "worker/comm/peer_memory.h"

namespace shoal::comm {

class NcclRank;

// One communicator. Operations return when they are enqueued; none waits for another rank, once connections are made.
class NcclLink {
 public:
  NcclLink(NcclRank* rank, NcclMembers members) : rank_(rank), members_(std::move(members)) {}
  int size() const { return static_cast<int>(members_.ranks.size()); }
  int index() const { return members_.index; }
  int peer(int rank) const { return members_.peer(rank); }

  // On the accelerator's queue unless `stream` says another.
  absl::Status AllGather(const void* part, void* all, size_t bytes);
  absl::Status Exchange(std::span<const NcclComm::Transfer> transfers, void* stream = nullptr);

 private:
  friend class NcclRank;
  absl::Status Done(const absl::Status& begun);
  std::string Name() const;  // "tensor channel of ranks 0, 1"

  NcclRank* const rank_;
  const NcclMembers members_;
  std::unique_ptr<NcclComm> comm_;
};

class NcclRank final : public CommWatch {
 public:
  NcclRank(const NcclSetup& setup, TimeNs deadline) : setup_(setup), deadline_(deadline) {}
  ~NcclRank() override;  // aborts, and waits for the device

  // The communicator of `members`, up.
  absl::StatusOr<NcclLink*> Join(const NcclId& id, NcclMembers members);
  // Device memory until the end of this.
  absl::StatusOr<std::byte*> Allocate(size_t bytes);
  // A second queue (once), until the end of this: it goes when nothing there waits for a peer any more.
  absl::StatusOr<NcclQueue*> MakeQueue(int places);
  // Memory that the tensor ranks share, until the end of this; null: none.
  void SetPeers(std::unique_ptr<PeerMemory> peers) { peers_ = std::move(peers); }
  PeerMemory* peers() const { return peers_.get(); }
  // Until all that was enqueued is done.
  absl::Status AwaitQueue();
  // From now on waits have no deadline, and what is sent counts.
  void Connected();

  absl::Status Poll() override;
  void Abort() override;
  // OK, what broke the group, or that it is aborted.
  absl::Status Check();

  const NcclSetup& setup() const { return setup_; }
  TimeNs deadline() const { return deadline_; }
  ops::Accelerator& accelerator() const { return *setup_.accelerator; }
  SentBytes& sent() { return stats.over(Transport::kNccl); }

  CommStats stats;

 private:
  friend class NcclLink;
  // Remembers the first.
  absl::Status Break(const absl::Status& why);
  // Until `ready` says true; an error of its is final.
  template <typename Ready>
  absl::Status Await(const std::string& what, const std::vector<int>& peers, Ready ready);

  static constexpr TimeNs kNoDeadline = std::numeric_limits<TimeNs>::max();

  const NcclSetup setup_;
  TimeNs deadline_;  // of waits
  std::vector<std::unique_ptr<NcclLink>> links_;
  std::unique_ptr<NcclQueue> queue_;
  std::unique_ptr<PeerMemory> peers_;
  std::vector<void*> memory_;
  absl::Status broken_;
};

}  // namespace shoal::comm
