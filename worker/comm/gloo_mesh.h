// The connections of one rank over Gloo, and waiting on them: everything of Gloo that throws, blocks or belongs to its
// thread. Internal to worker/comm/gloo. One thread calls, but for Port().
//
// Gloo's waits cannot be polled, and a time-out of theirs closes all connections. So they get none; a thread of ours
// looks at the abort flag every 10 ms and interrupts the wait that is under way. A connection that ends while a message
// is half read says nothing to its waiter; so there is one receive on each that is never answered, and a thread that
// waits for it.
#pragma once

#include <gloo/transport/context.h>
#include <gloo/transport/device.h>
#include <gloo/transport/unbound_buffer.h>

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "worker/comm/collective.h"
#include "worker/comm/wait_note.h"

namespace shoal::comm {

// Messages of one kind on a connection are matched in order; kinds do not wait for each other.
enum class GlooTag : uint64_t { kHello = 1, kLifeline, kTensor, kActivation, kToken };

class GlooSender;
class GlooReceiver;

class GlooMesh {
 public:
  using Buffer = ::gloo::transport::UnboundBuffer;

  // `host` is numeric; `peers` ascend. `abort`, `stats` and `note` (may be null) outlive this.
  static absl::StatusOr<std::unique_ptr<GlooMesh>> Listen(int rank, int ranks, std::vector<int> peers,
                                                          const std::string& host, const AbortFlag* abort,
                                                          CommStats* stats, WaitNote* note);
  // What has been handed over still goes out, as far as the kernel has taken it.
  ~GlooMesh();

  const std::vector<int>& peers() const { return peers_; }
  // Where `peer` is expected.
  uint16_t Port(int peer) const;

  // From now until Connected(), an abort or the deadline closes all connections, which ends whatever waits.
  void StartConnecting(TimeNs deadline);
  // One of a pair of ranks connects and the other is connected to: returns when it has happened.
  absl::Status Connect(int peer, const std::string& host, uint16_t port);
  // Sends `mine[i]` to peers()[i] and returns what each of them sent, all of one length. Receives that were posted
  // before are known to a peer by the time that it has the greeting: what fits them never waits.
  absl::StatusOr<std::vector<std::string>> Greet(const std::vector<std::string>& mine);
  void Connected();

  // Ends of a directed channel, owned by this. `slots` messages of at most `bytes`.
  absl::StatusOr<GlooSender*> AddSender(int peer, GlooTag tag, int slots, size_t bytes);
  absl::StatusOr<GlooReceiver*> AddReceiver(int peer, GlooTag tag, int slots, size_t bytes);

  // --- For the ends ---
  std::unique_ptr<Buffer> Register(std::byte* memory, size_t bytes);
  absl::Status Send(Buffer& buffer, int peer, GlooTag tag, size_t bytes);
  absl::Status PostReceive(Buffer& buffer, int peer, GlooTag tag, size_t bytes);
  enum class Way { kSent, kReceived };
  // Aborted, Unavailable or (while connecting) DeadlineExceeded, naming `what` and `peer`.
  absl::Status Wait(Buffer& buffer, Way way, const char* what, int peer) SHOAL_EXCLUDES(mutex_);
  // A wait for what can only come from this very thread.
  absl::Status WaitForAbort(const char* what) SHOAL_EXCLUDES(mutex_);

 private:
  GlooMesh(int rank, std::vector<int> peers, const AbortFlag* abort, CommStats* stats, WaitNote* note);
  absl::Status WaitInterruptibly(Buffer& buffer, Way way, const char* what, int peer);
  // Why a wait or a call ended that Gloo, or Watch(), has ended.
  absl::Status Ended(const char* what, int peer, const std::string& reason) SHOAL_EXCLUDES(mutex_);
  void Watch() SHOAL_EXCLUDES(mutex_);
  void GuardLifelines() SHOAL_EXCLUDES(mutex_);
  void CloseAll();
  bool aborted() const { return abort_->load(std::memory_order_acquire) != 0; }

  const int rank_;
  const std::vector<int> peers_;
  const AbortFlag* const abort_;
  CommStats* const stats_;
  WaitNote* const note_;                                 // or null
  std::shared_ptr<::gloo::transport::Device> device_;    // with Gloo's thread
  std::shared_ptr<::gloo::transport::Context> context_;  // the connections

  // Destroyed after the connections are closed, so that none of them meets memory that is gone.
  std::vector<std::unique_ptr<GlooSender>> senders_;
  std::vector<std::unique_ptr<GlooReceiver>> receivers_;
  std::byte lifeline_byte_{};
  std::vector<std::unique_ptr<Buffer>> lifelines_;  // GuardLifelines()'s; the last one is in use
  std::vector<std::string> greetings_;              // those of the peers, then ours
  std::vector<std::unique_ptr<Buffer>> greeting_buffers_;

  Mutex mutex_;
  CondVar changed_;
  bool stop_ SHOAL_GUARDED_BY(mutex_) = false;
  bool connecting_ SHOAL_GUARDED_BY(mutex_) = false;
  TimeNs deadline_ SHOAL_GUARDED_BY(mutex_) = 0;
  bool late_ SHOAL_GUARDED_BY(mutex_) = false;                // the deadline has closed all connections
  bool closed_ SHOAL_GUARDED_BY(mutex_) = false;              // all connections, by an abort or the deadline
  std::map<int, std::string> lost_ SHOAL_GUARDED_BY(mutex_);  // peers whose lifeline has ended, and why
  Buffer* lifeline_ SHOAL_GUARDED_BY(mutex_) = nullptr;
  Buffer* waiting_ SHOAL_GUARDED_BY(mutex_) = nullptr;
  int waiting_for_ SHOAL_GUARDED_BY(mutex_) = -1;  // peer
  Way way_ SHOAL_GUARDED_BY(mutex_) = Way::kSent;
  std::thread watch_, guard_;
};

}  // namespace shoal::comm
