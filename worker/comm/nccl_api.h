// What the CUDA plug-in gives for ranks that exchange data between devices: NCCL, as far as channels need it, and a
// second queue. No NCCL headers. The thread that opened the accelerator calls, and no other.
//
// Errors: Unavailable: NCCL has lost a peer. Internal: anything else that goes wrong, with NCCL's words.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace shoal::comm {

// Made by one rank of a communicator and known to all. Who has it can join.
using NcclId = std::array<std::byte, 128>;

// The same operations in the same order on all ranks. What is enqueued may wait on the device for the other ranks.
class NcclComm {
 public:
  virtual ~NcclComm() = default;  // aborts, if nobody has: alone

  // False while the communicator still comes up, or the last operation still goes to its queue: then nothing else may
  // be done with either. An error is final: of what was begun, or of the peers at any time later.
  virtual absl::StatusOr<bool> Settled() = 0;

  // all[r * bytes, + bytes) = `part` of rank r. `part` may be the own place in `all`.
  virtual absl::Status AllGather(const void* part, void* all, size_t bytes, void* stream) = 0;

  // All at once. Between two ranks, sends meet receives in the order of the list; sizes must agree.
  struct Transfer {
    int peer;  // another rank
    const void* send = nullptr;
    void* receive = nullptr;  // one of the two
    size_t bytes = 0;         // at least 1
  };
  virtual absl::Status Exchange(std::span<const Transfer> transfers, void* stream) = 0;
};

// A second queue of work, so that what waits there for a peer does not hold up the accelerator's.
class NcclQueue {
 public:
  virtual ~NcclQueue() = default;  // nothing there waits for a peer any more
  virtual void* native_stream() = 0;
  // What comes here from now on runs after all that is in the accelerator's queue now.
  virtual absl::Status FollowMain() = 0;
  // Remembers, as place [0, places), what is here now ...
  virtual absl::Status Remember(int place) = 0;
  // ... and lets what comes into the accelerator's queue run after it. Nothing was remembered there: no wait.
  virtual absl::Status HoldMain(int place) = 0;
};

class NcclApi {
 public:
  virtual ~NcclApi() = default;

  // "2.28.9". FailedPrecondition, with what helps: NCCL is not installed, or is of a version that will not do. The
  // other functions need it to have been OK once.
  virtual absl::StatusOr<std::string> Version() = 0;

  // Starts a thread of this process to which the ranks come that join; it ends when all have come, or with the process.
  virtual absl::StatusOr<NcclId> MakeId() = 0;

  struct CommOptions {
    int size = 0, rank = 0;
    int max_blocks = 0;      // of the device's that one operation may occupy; 0: as many as NCCL wants
    void* stream = nullptr;  // the accelerator's
  };
  // Begins; Settled() says when it is up.
  virtual absl::StatusOr<std::unique_ptr<NcclComm>> Join(const NcclId& id, const CommOptions& options) = 0;

  // Ends what waits on the device, without the peers; only destruction may follow. All communicators of a device at
  // once: one by one, the first would wait for its operations behind those of the second. Waits until no graph exists
  // that has recorded operations of theirs.
  virtual void Abort(std::span<NcclComm* const> comms) = 0;

  // `main`: the accelerator's native_stream().
  virtual absl::StatusOr<std::unique_ptr<NcclQueue>> MakeQueue(void* main, int places) = 0;
};

inline constexpr char kNcclEntry[] = "shoal_nccl";  // the symbol of libshoal_cuda.so

}  // namespace shoal::comm

// Static data of the library. Never null.
extern "C" shoal::comm::NcclApi* shoal_nccl();
