// Tested by: tests/comm/nccl_test.cc
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/comm/nccl_channels.h"

namespace shoal::comm {
namespace {

// What the sampling rank has posted, in slots of its device's memory, in turn.
struct Outbox {
  std::byte* slots = nullptr;
  size_t slot_bytes = 0;
  int count = 0;
  int max_samples = 0;
  uint64_t posted = 0, taken = 0;  // taken: by the sampling rank itself, where it reads its own

  void* slot(uint64_t message) const { return slots + message % static_cast<uint64_t>(count) * slot_bytes; }
};

class NcclMailboxOut final : public TokenMailbox {
 public:
  NcclMailboxOut(std::shared_ptr<NcclRank> rank, NcclLink* link, std::shared_ptr<Outbox> box, bool own_reader,
                 NcclQueue* queue)
      : rank_(std::move(rank)), link_(link), box_(std::move(box)), own_reader_(own_reader), queue_(queue) {}

  absl::Status Post(uint64_t step, std::span<const int32_t> tokens) override {
    Outbox& box = *box_;
    if (static_cast<int64_t>(tokens.size()) > box.max_samples) {
      return absl::InvalidArgumentError(
          absl::StrCat(tokens.size(), " tokens of step ", step, ", at most ", box.max_samples, " fit into a message"));
    }
    if (own_reader_ && box.posted == box.taken + static_cast<uint64_t>(box.count)) {
      return absl::InternalError(absl::StrCat("step ", step, ": all slots hold tokens that this rank has not taken"));
    }
    const uint64_t message = box.posted++;
    if (tokens.empty()) return absl::OkStatus();
    const int place = static_cast<int>(message % static_cast<uint64_t>(box.count));
    void* const slot = box.slot(message);
    if (queue_ != nullptr) SHOAL_RETURN_IF_ERROR(queue_->HoldMain(place));
    SHOAL_RETURN_IF_ERROR(rank_->accelerator().Copy(slot, tokens.data(), tokens.size_bytes()));
    if (queue_ == nullptr) return absl::OkStatus();
    SHOAL_RETURN_IF_ERROR(queue_->FollowMain());
    to_readers_.clear();
    for (int reader = 0; reader < link_->size(); ++reader) {
      if (reader == link_->index()) continue;
      to_readers_.push_back({.peer = reader, .send = slot, .bytes = tokens.size_bytes()});
      rank_->sent().token += static_cast<int64_t>(tokens.size_bytes());
    }
    SHOAL_RETURN_IF_ERROR(link_->Exchange(to_readers_, queue_->native_stream()));
    return queue_->Remember(place);
  }

  absl::Status Take(uint64_t, std::span<int32_t>) override { return absl::InternalError("the writer's end"); }

 private:
  const std::shared_ptr<NcclRank> rank_;
  NcclLink* const link_;
  const std::shared_ptr<Outbox> box_;
  const bool own_reader_;
  NcclQueue* const queue_;  // null: there are no other readers
  std::vector<NcclComm::Transfer> to_readers_;
};

// Of a rank that reads what another one samples.
class NcclMailboxIn final : public TokenMailbox {
 public:
  NcclMailboxIn(std::shared_ptr<NcclRank> rank, NcclLink* link, int writer)
      : rank_(std::move(rank)), link_(link), writer_(writer) {}

  absl::Status Post(uint64_t, std::span<const int32_t>) override { return absl::InternalError("a reader's end"); }

  absl::Status Take(uint64_t, std::span<int32_t> tokens) override {
    if (tokens.empty()) return absl::OkStatus();
    const NcclComm::Transfer from_writer[] = {
        {.peer = writer_, .receive = tokens.data(), .bytes = tokens.size_bytes()}};
    return link_->Exchange(from_writer);
  }

 private:
  const std::shared_ptr<NcclRank> rank_;
  NcclLink* const link_;
  const int writer_;  // in the communicator
};

// Of the sampling rank, where it is of stage 0 itself.
class NcclOwnMailboxIn final : public TokenMailbox {
 public:
  NcclOwnMailboxIn(std::shared_ptr<NcclRank> rank, std::shared_ptr<Outbox> box)
      : rank_(std::move(rank)), box_(std::move(box)) {}

  absl::Status Post(uint64_t, std::span<const int32_t>) override { return absl::InternalError("a reader's end"); }

  absl::Status Take(uint64_t step, std::span<int32_t> tokens) override {
    if (box_->taken == box_->posted) {
      return absl::InternalError(absl::StrCat("step ", step, " has not been posted"));
    }
    const uint64_t message = box_->taken++;
    if (tokens.empty()) return absl::OkStatus();
    return rank_->accelerator().Copy(tokens.data(), box_->slot(message), tokens.size_bytes());
  }

 private:
  const std::shared_ptr<NcclRank> rank_;
  const std::shared_ptr<Outbox> box_;
};

}  // namespace

absl::StatusOr<NcclMailboxes> MakeNcclMailboxes(std::shared_ptr<NcclRank> rank, NcclLink* link) {
  const GroupShape& shape = rank->setup().shape;
  const int own = rank->setup().rank, writer = (shape.pp - 1) * shape.tp;
  NcclMailboxes mailboxes;
  if (own != writer) {
    if (own < shape.tp) mailboxes.in = std::make_unique<NcclMailboxIn>(rank, link, link->peer(writer));
    return mailboxes;
  }
  const bool own_reader = own < shape.tp;
  const auto box = std::make_shared<Outbox>();
  box->count = shape.mailbox_slots;
  box->max_samples = shape.max_samples;
  box->slot_bytes = std::max(1, shape.max_samples) * sizeof(int32_t);
  SHOAL_ASSIGN_OR_RETURN(box->slots, rank->Allocate(static_cast<size_t>(box->count) * box->slot_bytes));
  NcclQueue* queue = nullptr;
  if (link != nullptr) {
    SHOAL_ASSIGN_OR_RETURN(queue, rank->MakeQueue(box->count));
  }
  if (own_reader) mailboxes.in = std::make_unique<NcclOwnMailboxIn>(rank, box);
  mailboxes.out = std::make_unique<NcclMailboxOut>(std::move(rank), link, box, own_reader, queue);
  return mailboxes;
}

}  // namespace shoal::comm
