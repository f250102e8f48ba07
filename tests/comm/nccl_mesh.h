// The ranks of one emulated communicator (emulated_nccl.h), in any threads or processes of this host: a socket between
// each two. A send is done when it was received, and a rank that is gone is waited for: between devices of one host
// NCCL does not notice either.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/comm/nccl_api.h"

namespace shoal::comm {

class NcclMesh {
 public:
  // From now on the other ranks can connect to this one. Who has the id can.
  NcclMesh(const NcclId& id, int size, int rank);
  ~NcclMesh();
  NcclMesh(const NcclMesh&) = delete;
  NcclMesh& operator=(const NcclMesh&) = delete;

  int size() const { return size_; }
  int rank() const { return rank_; }

  // Goes on with connecting, without waiting; whether all are connected. Operations come after that.
  bool Connect();

  // The thread of a queue. Internal: a message is not of the size that was expected. OK, too, once this is aborted.
  absl::Status AllGather(const void* part, void* all, size_t bytes);
  absl::Status Exchange(const std::vector<NcclComm::Transfer>& transfers);

  // Any thread, at any time. Ends the operation that runs and those that come.
  void Abort();

 private:
  struct Peer {
    int fd = -1;
    std::string out, in;              // what the socket has not taken yet; what is not a whole frame yet
    std::deque<std::string> arrived;  // messages
    uint64_t sent = 0, taken = 0;     // messages, and those that the peer says it has received
  };

  std::string AddressOf(int rank) const;
  void ConnectTo(int rank);
  void AcceptOne();
  absl::Status TakeArrived(std::deque<NcclComm::Transfer>& receives);
  bool AllTaken() const;
  void WaitAndMove();
  void Read(Peer& peer);
  void Write(Peer& peer);

  const NcclId id_;
  const int size_, rank_;
  int listener_ = -1, aborted_fd_ = -1;
  std::atomic<bool> aborted_{false};
  std::map<int, Peer> peers_;  // by rank
};

}  // namespace shoal::comm
