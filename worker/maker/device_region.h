// A region in a device's memory as the threads that load it see it: they fill pieces of pinned host memory, and the
// accelerator's one thread sends them on their way. So disks, packing and the bus are busy at once. Dummies are made
// where they shall lie.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <vector>

#include "common/base/mutex.h"
#include "kernels/ops/accelerator.h"
#include "worker/weights/weights.h"

namespace shoal::maker {

class DeviceRegion final : public weights::RegionWriter {
 public:
  // `region`: device memory, where the region begins. `pieces` buffers of `piece_bytes`: one for each thread that
  // loads, and some that are on their way meanwhile. All that is given outlives it. ResourceExhausted: so much cannot
  // be pinned.
  static absl::StatusOr<std::unique_ptr<DeviceRegion>> Create(ops::Accelerator* accelerator, std::byte* region,
                                                              int pieces, int64_t piece_bytes);
  ~DeviceRegion() override;  // on the accelerator's thread; waits for what is on its way

  // Any thread. Room() waits for a buffer; once a transfer has failed, it is the error.
  absl::StatusOr<std::byte*> Room(int64_t offset, int64_t bytes) override SHOAL_EXCLUDES(mutex_);
  absl::Status Put(std::byte* room, int64_t offset, int64_t bytes) override SHOAL_EXCLUDES(mutex_);
  absl::StatusOr<bool> MakeDummy(int64_t offset, const ops::DummyMatrixArgs& matrix) override SHOAL_EXCLUDES(mutex_);

  // The accelerator's thread calls it again and again while others load: enqueues what was put and gives buffers back.
  // Returns when it has done something, or after `patience`.
  absl::Status Serve(std::chrono::nanoseconds patience) SHOAL_EXCLUDES(mutex_);
  // Nothing will be put any more: returns once all is in the region.
  absl::Status Finish() SHOAL_EXCLUDES(mutex_);

 private:
  struct Piece {
    std::byte* room;  // null: to be made there
    int64_t offset, bytes;
    ops::DummyMatrixArgs made = {};
  };
  struct OnItsWay {
    std::byte* room;
    uint64_t mark;
  };
  DeviceRegion(ops::Accelerator* accelerator, std::byte* region, void* memory, int pieces, int64_t piece_bytes);
  absl::Status Enqueue(const Piece& piece);
  absl::Status Collect() SHOAL_EXCLUDES(mutex_);
  absl::Status Fail(absl::Status status) SHOAL_EXCLUDES(mutex_);

  ops::Accelerator* const accelerator_;
  std::byte* const region_;
  void* const memory_;  // pinned: all buffers
  const int64_t piece_bytes_;
  std::deque<OnItsWay> on_their_way_;  // oldest first; of the accelerator's thread

  Mutex mutex_;
  CondVar put_came_, room_came_;
  std::vector<std::byte*> rooms_ SHOAL_GUARDED_BY(mutex_);  // free
  std::deque<Piece> put_ SHOAL_GUARDED_BY(mutex_);
  absl::Status status_ SHOAL_GUARDED_BY(mutex_);  // of the first transfer that failed
};

}  // namespace shoal::maker
