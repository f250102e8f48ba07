// Sampled tokens: one writer, the tensor ranks of stage 0 read. Message s lies in slot s % slots; it may be written
// once every reader has taken s - slots.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/comm/shm_channels.h"

namespace shoal::comm {
namespace {

class ShmMailbox final : public TokenMailbox {
 public:
  explicit ShmMailbox(std::shared_ptr<ShmRank> rank)
      : rank_(std::move(rank)),
        posted_(rank_->SignalAt(rank_->layout.mailbox)),
        taken_(posted_ + 1),
        writer_((rank_->shape.pp - 1) * rank_->shape.tp) {}

  absl::Status Post(uint64_t step, std::span<const int32_t> tokens) override {
    if (tokens.size() > static_cast<size_t>(rank_->shape.max_samples)) {
      return absl::InternalError(
          absl::StrCat(tokens.size(), " tokens exceed the mailbox's ", rank_->shape.max_samples));
    }
    const uint32_t s = posts_ + 1;
    for (int r = 0; r < rank_->shape.tp; ++r) {
      SHOAL_RETURN_IF_ERROR(rank_->waiter.Wait(taken_[r], s - rank_->shape.mailbox_slots, "room for tokens", r));
    }
    MailSlot* slot = Slot(s);
    *slot = {step, static_cast<uint32_t>(tokens.size()), 0};
    std::copy(tokens.begin(), tokens.end(), TokensOf(slot));
    rank_->stats.over(Transport::kShm).token += static_cast<int64_t>(sizeof(MailSlot) + tokens.size_bytes());
    Publish(*posted_, s);
    posts_ = s;
    return absl::OkStatus();
  }

  absl::Status Take(uint64_t step, std::span<int32_t> tokens) override {
    const uint32_t s = takes_ + 1;
    SHOAL_RETURN_IF_ERROR(rank_->waiter.Wait(*posted_, s, "sampled tokens", writer_));
    MailSlot* slot = Slot(s);
    if (slot->step != step || slot->count != tokens.size()) {
      return absl::InternalError(absl::StrCat("ranks have diverged: the mailbox holds ", slot->count,
                                              " tokens of step ", slot->step, ", ", tokens.size(), " of step ", step,
                                              " were expected"));
    }
    std::copy_n(TokensOf(slot), tokens.size(), tokens.begin());
    Publish(taken_[rank_->tensor_index], s);
    takes_ = s;
    return absl::OkStatus();
  }

 private:
  // Numbers start at 1 and wrap after 2^32: slots must then be a power of two for the order to hold (shm.cc checks).
  MailSlot* Slot(uint32_t s) const {
    const size_t index = s % static_cast<uint32_t>(rank_->shape.mailbox_slots);
    return reinterpret_cast<MailSlot*>(rank_->memory + rank_->layout.mail_slots + index * rank_->layout.mail_stride);
  }

  static int32_t* TokensOf(MailSlot* slot) { return reinterpret_cast<int32_t*>(slot + 1); }

  const std::shared_ptr<ShmRank> rank_;
  Signal* const posted_;
  Signal* const taken_;  // [tp]
  const int writer_;
  uint32_t posts_ = 0, takes_ = 0;
};

}  // namespace

std::unique_ptr<TokenMailbox> MakeShmMailbox(std::shared_ptr<ShmRank> rank) {
  return std::make_unique<ShmMailbox>(std::move(rank));
}

}  // namespace shoal::comm
