// A group of ranks as threads of the test, over any transport that one process can hold.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "worker/comm/collective.h"

namespace shoal::comm {

// kNccl: without peer memory; kPeer: with it.
enum class TestTransport { kLocal, kLocalUnbuffered, kShm, kGloo, kNccl, kPeer };
inline constexpr TestTransport kAllTransports[] = {TestTransport::kLocal, TestTransport::kLocalUnbuffered,
                                                   TestTransport::kShm, TestTransport::kGloo};
// Those and the ones whose data lie on a device, which a TestGroup copies there and back: its sums are of bf16. Nobody
// tells their ranks that they disagree, and slots and messages fill up on the device, where no call waits for them.
inline constexpr TestTransport kHostAndDeviceTransports[] = {TestTransport::kLocal, TestTransport::kLocalUnbuffered,
                                                             TestTransport::kShm,   TestTransport::kGloo,
                                                             TestTransport::kNccl,  TestTransport::kPeer};
inline constexpr bool OnDevice(TestTransport t) { return t == TestTransport::kNccl || t == TestTransport::kPeer; }
std::string TransportName(TestTransport t);

Transport Carrier(TestTransport t);         // what must carry the bytes of small sums
Transport ChannelCarrier(TestTransport t);  // and of all else

// The ranks of a group over Gloo on loopback, connected with each other.
std::vector<RankComm> ConnectGloo(const GroupShape& shape, std::span<const AbortFlag* const> abort);

// Whether `attempt` succeeds soon. Room that a peer has made is news that travels, where memory is not shared.
bool Eventually(const std::function<absl::Status()>& attempt);

class NcclGroup;

class TestGroup {
 public:
  TestGroup(const GroupShape& shape, TestTransport transport);
  ~TestGroup();

  int size() const { return static_cast<int>(ranks_.size()); }
  RankComm& rank(int r) { return ranks_[r]; }
  AbortFlag& abort(int r) { return abort_[r]; }

  // Runs fn(rank) on one thread per rank and returns their results. Ranks that are not done after half a minute are
  // aborted: a deadlock is a failed test, not a hanging one.
  std::vector<absl::Status> Run(const std::function<absl::Status(int)>& fn);

 private:
  struct Free {
    void operator()(void* memory) const;
  };
  std::unique_ptr<std::byte, Free> segment_;
  std::deque<AbortFlag> abort_;
  std::unique_ptr<NcclGroup> devices_;
  std::vector<RankComm> ranks_;
};

}  // namespace shoal::comm
