// Activations to the next stage: two slots in turn. Message s may be written once s - 2 was taken.
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/comm/shm_channels.h"

namespace shoal::comm {
namespace {

// The two signals and the slots between stage `border` and `border` + 1, for this rank's tensor index.
struct Link {
  Link(const ShmRank& rank, int border) {
    const size_t at = rank.layout.links + (border * rank.shape.tp + rank.tensor_index) * rank.layout.link_stride;
    sent = rank.SignalAt(at);
    taken = sent + 1;
    slots = reinterpret_cast<std::byte*>(taken + 1);
    slot_bytes = rank.layout.link_slot;
  }
  std::byte* Slot(uint32_t s) const { return slots + s % 2 * slot_bytes; }

  Signal* sent;
  Signal* taken;
  std::byte* slots;
  size_t slot_bytes;
};

class ShmSender final : public StageSender {
 public:
  explicit ShmSender(std::shared_ptr<ShmRank> rank) : rank_(std::move(rank)), link_(*rank_, rank_->stage) {}

  absl::Status Send(std::span<const std::byte> data) override {
    if (data.size() > static_cast<size_t>(rank_->shape.max_activation_bytes)) {
      return absl::InternalError(absl::StrCat("activations of ", data.size(), " bytes exceed the channel's ",
                                              rank_->shape.max_activation_bytes));
    }
    const uint32_t s = sequence_ + 1;
    SHOAL_RETURN_IF_ERROR(rank_->waiter.Wait(*link_.taken, s - 2, "room for activations", Peer()));
    std::memcpy(link_.Slot(s), data.data(), data.size());
    link_.sent->note[s % 2] = data.size();
    rank_->stats.over(Transport::kShm).activation += static_cast<int64_t>(data.size());
    Publish(*link_.sent, s);
    sequence_ = s;
    return absl::OkStatus();
  }

 private:
  int Peer() const { return (rank_->stage + 1) * rank_->shape.tp + rank_->tensor_index; }

  const std::shared_ptr<ShmRank> rank_;
  const Link link_;
  uint32_t sequence_ = 0;
};

class ShmReceiver final : public StageReceiver {
 public:
  explicit ShmReceiver(std::shared_ptr<ShmRank> rank) : rank_(std::move(rank)), link_(*rank_, rank_->stage - 1) {}

  absl::Status Receive(std::span<std::byte> data) override {
    const uint32_t s = sequence_ + 1;
    SHOAL_RETURN_IF_ERROR(rank_->waiter.Wait(*link_.sent, s, "activations", Peer()));
    if (link_.sent->note[s % 2] != data.size()) {
      return absl::InternalError(absl::StrCat("ranks have diverged: rank ", Peer(), " sent ", link_.sent->note[s % 2],
                                              " bytes of activations, ", data.size(), " were expected"));
    }
    std::memcpy(data.data(), link_.Slot(s), data.size());
    Publish(*link_.taken, s);
    sequence_ = s;
    return absl::OkStatus();
  }

 private:
  int Peer() const { return (rank_->stage - 1) * rank_->shape.tp + rank_->tensor_index; }

  const std::shared_ptr<ShmRank> rank_;
  const Link link_;
  uint32_t sequence_ = 0;
};

}  // namespace

std::unique_ptr<StageSender> MakeShmSender(std::shared_ptr<ShmRank> rank) {
  return std::make_unique<ShmSender>(std::move(rank));
}

std::unique_ptr<StageReceiver> MakeShmReceiver(std::shared_ptr<ShmRank> rank) {
  return std::make_unique<ShmReceiver>(std::move(rank));
}

}  // namespace shoal::comm
