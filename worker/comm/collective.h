// How ranks of a group exchange activations: three channels, each with its own order, per transport (local, shm, ...).
// A transport is a host's (local, shm, gloo): data lie in host memory, and an operation is done when it returns. Or it
// is a device's (nccl, staged.h): data lie in its memory, and operations are enqueued in the order of its other work.
// Then ranks that disagree are not told: the device waits until somebody aborts. Mailbox operations of nccl cannot be
// captured in a graph, all others can.
// All ranks of a channel call the same operations in the same order; one thread per rank calls. Waits have no time-out
// of their own: they end when the peers arrive, with Aborted once the rank's AbortFlag is raised, or with Unavailable
// when the transport has lost a peer (what a transport inside a host cannot notice is left to the agent).
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "kernels/ops/acts.h"

namespace shoal::comm {

// Raised from outside (the agent through shared memory, a test through a thread). Checked by every wait.
using AbortFlag = std::atomic<uint32_t>;

// The tensor ranks of one stage.
class TensorChannel {
 public:
  virtual ~TensorChannel() = default;
  virtual int size() const = 0;
  virtual int index() const = 0;

  // data[i] = sum over ranks, in rank order 0, 1, ... in f32, of their data[i]: the same bits on every rank and for
  // every algorithm. size() == 1: nothing happens. Steps: one-shot below a size (everybody reads all), else two-shot
  // (each rank sums its slice, everybody reads the sums). Elements are f32 on a host's transport; on a device's they
  // are its activations (ops::OpTable::acts), and a sum is rounded once.
  virtual absl::Status AllReduceSum(ops::Acts data, int64_t count) = 0;
  absl::Status AllReduceSum(std::span<float> data) {
    return AllReduceSum(ops::Acts(data.data()), static_cast<int64_t>(data.size()));
  }

  // On rank 0: out[r] (rows x widths[r], contiguous) of every rank r is copied into dst with row stride `stride` at the
  // column where rank r's part begins (the widths before it). On other ranks dst is unused.
  virtual absl::Status GatherColumns(std::span<const float> part, int rows, std::span<const int32_t> widths, float* dst,
                                     int64_t stride) = 0;
};

// Activations from one stage to the next: rank (s, t) to rank (s + 1, t). One writer, one reader.
class StageSender {
 public:
  virtual ~StageSender() = default;
  virtual absl::Status Send(std::span<const std::byte> data) = 0;
};
class StageReceiver {
 public:
  virtual ~StageReceiver() = default;
  // The next message; its size must be exactly that of `data` (else Internal: the ranks have diverged).
  virtual absl::Status Receive(std::span<std::byte> data) = 0;
};

// Sampled tokens from the sampling rank to every rank of stage 0. One message for each step that samples, in step
// order; more slots than plans can be in flight, so that posting does not wait in practice.
class TokenMailbox {
 public:
  virtual ~TokenMailbox() = default;
  virtual absl::Status Post(uint64_t step, std::span<const int32_t> tokens) = 0;
  // The message of the next step; `step` must be the one posted (else Internal). tokens.size() must match.
  virtual absl::Status Take(uint64_t step, std::span<int32_t> tokens) = 0;
};

// kPeer is no transport of its own: sums over memory that devices share go beside nccl (peer_memory.h).
enum class Transport : uint8_t { kLocal, kShm, kGloo, kNccl, kPeer };
inline constexpr std::array<std::string_view, 5> kTransportNames = {"local", "shm", "gloo", "nccl", "peer"};

// Of what a rank publishes so that others can connect to it.
inline constexpr size_t kMaxAddressBytes = 64 * 1024;

// Bytes put on one transport.
struct SentBytes {
  int64_t tensor = 0, activation = 0, token = 0;
};

// What this rank has put on each transport. A channel end counts in its own transport's row where it writes the bytes,
// so the rows tell what really carried the traffic, whatever was asked for. Written by the rank's thread only.
struct CommStats {
  std::array<SentBytes, kTransportNames.size()> sent = {};
  DurationNs waited = 0;  // on other ranks, all channels together

  SentBytes& over(Transport t) { return sent[static_cast<size_t>(t)]; }
  const SentBytes& over(Transport t) const { return sent[static_cast<size_t>(t)]; }
};

// What a device's transport does after the call that enqueued it has returned. The rank's thread.
class CommWatch {
 public:
  virtual ~CommWatch() = default;
  // Whether all is well so far; does not wait. Unavailable: a peer is lost; Aborted: the flag is raised; Internal. What
  // was enqueued may then never be done, and every later operation says the same.
  virtual absl::Status Poll() = 0;
  // Ends what waits on the device for other ranks; what it leaves in memory is undefined. No operation may follow.
  // Graphs that have recorded operations must be gone: it would wait for that.
  virtual void Abort() = 0;
};

// One rank's ends of all channels. What a rank does not have is null: no sender on the last stage, no receiver on the
// first. The sampling rank posts to `mailbox_out`; ranks of stage 0 take from `mailbox_in`.
struct RankComm {
  std::unique_ptr<TensorChannel> tensor;
  std::unique_ptr<StageSender> next;
  std::unique_ptr<StageReceiver> previous;
  std::unique_ptr<TokenMailbox> mailbox_out;
  std::unique_ptr<TokenMailbox> mailbox_in;
  const CommStats* stats = nullptr;  // owned by the channels
  CommWatch* watch = nullptr;        // likewise; null: operations are done when they return
  std::string sums;                  // how sums go and why, for a log; empty: as the transport has it
  std::shared_ptr<void> keep_alive;
};

// The shape of a group, as far as channels care.
struct GroupShape {
  int tp = 1, pp = 1;
  int64_t max_activation_bytes = 0;  // of one message between stages
  int max_samples = 0;               // tokens in one mailbox message
  int mailbox_slots = 8;             // more than plans in flight
};

}  // namespace shoal::comm
