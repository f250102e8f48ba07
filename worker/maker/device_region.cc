#include "worker/maker/device_region.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace shoal::maker {
namespace {

constexpr int64_t kAlignment = 256;
// Between two looks at transfers that are under way while nothing new comes: a piece of 1 MiB takes some 20 us.
constexpr auto kLook = std::chrono::microseconds(20);

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceRegion>> DeviceRegion::Create(ops::Accelerator* accelerator, std::byte* region,
                                                                   int pieces, int64_t piece_bytes) {
  SHOAL_CHECK(pieces >= 1 && piece_bytes >= 1);
  piece_bytes = (piece_bytes + kAlignment - 1) / kAlignment * kAlignment;
  SHOAL_ASSIGN_OR_RETURN(void* const memory, accelerator->AllocatePinned(static_cast<size_t>(pieces * piece_bytes)));
  return std::unique_ptr<DeviceRegion>(new DeviceRegion(accelerator, region, memory, pieces, piece_bytes));
}

DeviceRegion::DeviceRegion(ops::Accelerator* accelerator, std::byte* region, void* memory, int pieces,
                           int64_t piece_bytes)
    : accelerator_(accelerator), region_(region), memory_(memory), piece_bytes_(piece_bytes) {
  MutexLock lock(mutex_);
  for (int i = 0; i < pieces; ++i) rooms_.push_back(static_cast<std::byte*>(memory) + i * piece_bytes);
}

DeviceRegion::~DeviceRegion() {
  accelerator_->Synchronise().IgnoreError();
  accelerator_->FreePinned(memory_);
}

absl::StatusOr<std::byte*> DeviceRegion::Room(int64_t, int64_t bytes) {
  SHOAL_CHECK(bytes <= piece_bytes_);
  MutexLock lock(mutex_);
  while (rooms_.empty() && status_.ok()) room_came_.Wait(mutex_);
  if (!status_.ok()) return status_;
  std::byte* const room = rooms_.back();
  rooms_.pop_back();
  return room;
}

absl::Status DeviceRegion::Put(std::byte* room, int64_t offset, int64_t bytes) {
  MutexLock lock(mutex_);
  put_.push_back({.room = room, .offset = offset, .bytes = bytes});
  put_came_.NotifyAll();
  return status_;
}

absl::StatusOr<bool> DeviceRegion::MakeDummy(int64_t offset, const ops::DummyMatrixArgs& matrix) {
  MutexLock lock(mutex_);
  if (!status_.ok()) return status_;
  put_.push_back({.room = nullptr, .offset = offset, .bytes = 0, .made = matrix});
  put_came_.NotifyAll();
  return true;
}

absl::Status DeviceRegion::Enqueue(const Piece& piece) {
  if (piece.room == nullptr) {
    ops::DummyMatrixArgs matrix = piece.made;
    matrix.data = region_ + piece.offset;
    return accelerator_->table().dummy_matrix(accelerator_->stream(), matrix);
  }
  SHOAL_RETURN_IF_ERROR(accelerator_->CopyIn(region_ + piece.offset, piece.room, static_cast<size_t>(piece.bytes)));
  SHOAL_ASSIGN_OR_RETURN(const uint64_t mark, accelerator_->Mark());
  on_their_way_.push_back({piece.room, mark});
  return absl::OkStatus();
}

absl::Status DeviceRegion::Collect() {
  while (!on_their_way_.empty()) {
    SHOAL_ASSIGN_OR_RETURN(const bool reached, accelerator_->Reached(on_their_way_.front().mark));
    if (!reached) break;
    MutexLock lock(mutex_);
    rooms_.push_back(on_their_way_.front().room);
    on_their_way_.pop_front();
    room_came_.NotifyOne();
  }
  return absl::OkStatus();
}

absl::Status DeviceRegion::Fail(absl::Status status) {
  if (status.ok()) return status;
  MutexLock lock(mutex_);
  if (status_.ok()) status_ = status;
  room_came_.NotifyAll();
  return status;
}

absl::Status DeviceRegion::Serve(std::chrono::nanoseconds patience) {
  std::deque<Piece> put;
  {
    MutexLock lock(mutex_);
    if (put_.empty()) put_came_.WaitFor(mutex_, on_their_way_.empty() ? patience : std::min(patience, {kLook}));
    put.swap(put_);
  }
  for (const Piece& piece : put) SHOAL_RETURN_IF_ERROR(Fail(Enqueue(piece)));
  return Fail(Collect());
}

absl::Status DeviceRegion::Finish() {
  while (true) {
    {
      MutexLock lock(mutex_);
      if (put_.empty()) break;
    }
    SHOAL_RETURN_IF_ERROR(Serve(kLook));
  }
  SHOAL_RETURN_IF_ERROR(Fail(accelerator_->Synchronise()));
  return Fail(Collect());
}

}  // namespace shoal::maker
