// Tested by: tests/device/accelerator_device_test.cc
#include <algorithm>
#include <cstring>
#include <deque>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/device/device.h"

namespace shoal::device {
namespace {

constexpr size_t kAlignment = 256;

// Pinned memory that uploads pass through: a ring, of which the oldest part is free again once its mark is reached.
class UploadRing {
 public:
  UploadRing(ops::Accelerator* accelerator, std::byte* memory, size_t bytes)
      : accelerator_(accelerator), memory_(memory), bytes_(bytes) {}
  size_t bytes() const { return bytes_; }

  // Room for `bytes` (at most bytes()), free of what was uploaded before. Waits while there is none.
  absl::StatusOr<std::byte*> Take(size_t bytes) {
    bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (next_ + bytes > bytes_) {  // what lies there is older than what lies at the beginning
      SHOAL_RETURN_IF_ERROR(Free(next_, bytes_ - next_));
      next_ = 0;
    }
    SHOAL_RETURN_IF_ERROR(Free(next_, bytes));
    taken_ = bytes;
    return memory_ + next_;
  }
  // The copy out of what was taken last is enqueued.
  absl::Status Enqueued() {
    SHOAL_ASSIGN_OR_RETURN(const uint64_t mark, accelerator_->Mark());
    used_.push_back({next_, taken_, mark});
    next_ += taken_;
    return absl::OkStatus();
  }

 private:
  struct Part {
    size_t begin, bytes;
    uint64_t mark;
  };
  // Until nothing is on its way out of [begin, begin + bytes), where the oldest lie first.
  absl::Status Free(size_t begin, size_t bytes) {
    while (!used_.empty() && used_.front().begin < begin + bytes && begin < used_.front().begin + used_.front().bytes) {
      SHOAL_ASSIGN_OR_RETURN(const bool reached, accelerator_->Reached(used_.front().mark));
      if (reached) {
        used_.pop_front();
      } else {
        std::this_thread::yield();
      }
    }
    return absl::OkStatus();
  }

  ops::Accelerator* const accelerator_;
  std::byte* const memory_;
  const size_t bytes_;
  size_t next_ = 0, taken_ = 0;
  std::deque<Part> used_;  // oldest first, in ring order
};

class AcceleratorDevice final : public Device {
 public:
  AcceleratorDevice(std::unique_ptr<ops::Accelerator> accelerator, Memory ring)
      : accelerator_(std::move(accelerator)),
        ring_memory_(std::move(ring)),
        ring_(accelerator_.get(), ring_memory_.data(), ring_memory_.size()) {}
  // Memory goes before the accelerator that frees it.
  ~AcceleratorDevice() override { ring_memory_ = Memory(); }

  const ops::OpTable& table() const override { return accelerator_->table(); }
  ops::Stream& stream() override { return accelerator_->stream(); }
  bool is_host() const override { return false; }

  absl::StatusOr<Memory> Allocate(size_t bytes) override {
    SHOAL_ASSIGN_OR_RETURN(void* const data, accelerator_->Allocate(bytes));
    return Memory(data, bytes, [a = accelerator_.get()](void* p) { a->Free(p); });
  }
  absl::StatusOr<Memory> AllocateHost(size_t bytes) override {
    SHOAL_ASSIGN_OR_RETURN(void* const data, accelerator_->AllocatePinned(bytes));
    return Memory(data, bytes, [a = accelerator_.get()](void* p) { a->FreePinned(p); });
  }

  absl::Status Upload(void* to, const void* from, size_t bytes) override {
    const size_t piece = ring_.bytes() / 2;  // while one half is on its way, the other is filled
    for (size_t at = 0; at < bytes; at += piece) {
      const size_t size = std::min(piece, bytes - at);
      SHOAL_ASSIGN_OR_RETURN(std::byte* const pinned, ring_.Take(size));
      std::memcpy(pinned, static_cast<const std::byte*>(from) + at, size);
      SHOAL_RETURN_IF_ERROR(accelerator_->CopyIn(static_cast<std::byte*>(to) + at, pinned, size));
      SHOAL_RETURN_IF_ERROR(ring_.Enqueued());
    }
    return absl::OkStatus();
  }

  absl::Status Download(void* to, const void* from, size_t bytes) override {
    const size_t piece = ring_.bytes() / 2;
    for (size_t at = 0; at < bytes; at += piece) {
      const size_t size = std::min(piece, bytes - at);
      SHOAL_ASSIGN_OR_RETURN(std::byte* const pinned, ring_.Take(size));
      SHOAL_RETURN_IF_ERROR(accelerator_->CopyOut(pinned, static_cast<const std::byte*>(from) + at, size));
      SHOAL_RETURN_IF_ERROR(accelerator_->Synchronise());
      std::memcpy(static_cast<std::byte*>(to) + at, pinned, size);
    }
    return absl::OkStatus();
  }
  absl::Status Fetch(void* to, const void* from, size_t bytes) override {
    return bytes == 0 ? absl::OkStatus() : accelerator_->CopyOut(to, from, bytes);
  }

  absl::StatusOr<uint64_t> Mark() override { return accelerator_->Mark(); }
  absl::StatusOr<bool> Reached(uint64_t mark) override {
    SHOAL_RETURN_IF_ERROR(PassMilestones());
    return accelerator_->Reached(mark);
  }
  absl::Status Milestone() override {
    SHOAL_ASSIGN_OR_RETURN(const uint64_t mark, accelerator_->Mark());
    milestones_.push_back(mark);
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<ops::AcceleratorGraph>> Record(const std::function<absl::Status()>& enqueue) override {
    SHOAL_RETURN_IF_ERROR(accelerator_->BeginCapture());
    const absl::Status enqueued = enqueue();
    auto graph = accelerator_->EndCapture();
    if (!enqueued.ok()) return enqueued;
    return graph;
  }
  absl::Status Launch(ops::AcceleratorGraph& graph) override { return accelerator_->Launch(graph); }
  absl::Status ProvokeFault() override { return accelerator_->ProvokeFault(); }

 private:
  absl::Status PassMilestones() {
    while (!milestones_.empty()) {
      SHOAL_ASSIGN_OR_RETURN(const bool reached, accelerator_->Reached(milestones_.front()));
      if (!reached) break;
      milestones_.pop_front();
      stream().Advance();
    }
    return absl::OkStatus();
  }

  const std::unique_ptr<ops::Accelerator> accelerator_;
  std::deque<uint64_t> milestones_;  // oldest first
  Memory ring_memory_;
  UploadRing ring_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> MakeAcceleratorDevice(std::unique_ptr<ops::Accelerator> accelerator,
                                                              size_t upload_bytes) {
  upload_bytes = std::max((upload_bytes + kAlignment - 1) / kAlignment, size_t{2}) * kAlignment;
  SHOAL_ASSIGN_OR_RETURN(void* const data, accelerator->AllocatePinned(upload_bytes));
  Memory ring(data, upload_bytes, [a = accelerator.get()](void* p) { a->FreePinned(p); });
  return std::make_unique<AcceleratorDevice>(std::move(accelerator), std::move(ring));
}

}  // namespace shoal::device
