// Tested by: tests/comm/channels_test.cc
// Sampled tokens from one rank to those of stage 0: a link to each of the others, and a queue where the sampling rank
// is itself one of them.
#include <algorithm>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/comm/gloo_channels.h"
#include "worker/comm/gloo_link.h"

namespace shoal::comm {
namespace {

constexpr uint64_t kTokens = 1;

// Messages of a rank to itself; used by its thread only.
struct OwnMail {
  struct Message {
    uint64_t step;
    std::vector<int32_t> tokens;
  };
  std::deque<Message> messages;
};

absl::Status Diverged(uint64_t step, size_t count, uint64_t expected_step, size_t expected_count) {
  return absl::InternalError(absl::StrCat("ranks have diverged: the mailbox holds ", count, " tokens of step ", step,
                                          ", ", expected_count, " of step ", expected_step, " were expected"));
}

class GlooPoster final : public TokenMailbox {
 public:
  GlooPoster(std::shared_ptr<GlooRank> rank, std::vector<GlooSender*> readers, std::shared_ptr<OwnMail> own)
      : rank_(std::move(rank)), readers_(std::move(readers)), own_(std::move(own)) {}

  // Nothing is sent before there is room for all.
  absl::Status Post(uint64_t step, std::span<const int32_t> tokens) override {
    if (tokens.size() > static_cast<size_t>(rank_->shape.max_samples)) {
      return absl::InternalError(
          absl::StrCat(tokens.size(), " tokens exceed the mailbox's ", rank_->shape.max_samples));
    }
    if (own_ != nullptr && own_->messages.size() >= static_cast<size_t>(rank_->shape.mailbox_slots)) {
      return rank_->mesh->WaitForAbort("room for tokens");  // nobody else takes them
    }
    for (GlooSender* reader : readers_) SHOAL_RETURN_IF_ERROR(reader->Open("room for tokens").status());
    for (GlooSender* reader : readers_) {
      SHOAL_ASSIGN_OR_RETURN(std::byte* const slot, reader->Open("room for tokens"));
      if (!tokens.empty()) std::memcpy(slot, tokens.data(), tokens.size_bytes());
      SHOAL_RETURN_IF_ERROR(reader->Send(kTokens, step, tokens.size_bytes()));
      rank_->stats.over(Transport::kGloo).token += static_cast<int64_t>(sizeof(GlooHeader) + tokens.size_bytes());
    }
    if (own_ != nullptr) own_->messages.push_back({step, {tokens.begin(), tokens.end()}});
    return absl::OkStatus();
  }

  absl::Status Take(uint64_t, std::span<int32_t>) override {
    return absl::InternalError("this end of the mailbox posts");
  }

 private:
  const std::shared_ptr<GlooRank> rank_;
  const std::vector<GlooSender*> readers_;
  const std::shared_ptr<OwnMail> own_;  // null: this rank is not of stage 0
};

// Takes what another rank has posted.
class GlooTaker final : public TokenMailbox {
 public:
  GlooTaker(std::shared_ptr<GlooRank> rank, GlooReceiver* link) : rank_(std::move(rank)), link_(link) {}

  absl::Status Post(uint64_t, std::span<const int32_t>) override {
    return absl::InternalError("this end of the mailbox takes");
  }
  absl::Status Take(uint64_t step, std::span<int32_t> tokens) override {
    SHOAL_ASSIGN_OR_RETURN(const GlooReceiver::Message message, link_->Next("sampled tokens"));
    if (message.kind != kTokens || message.note != step || message.payload.size() != tokens.size_bytes()) {
      return Diverged(message.note, message.payload.size() / sizeof(int32_t), step, tokens.size());
    }
    if (!tokens.empty()) std::memcpy(tokens.data(), message.payload.data(), tokens.size_bytes());
    link_->Done();
    return absl::OkStatus();
  }

 private:
  const std::shared_ptr<GlooRank> rank_;  // owns the link
  GlooReceiver* const link_;
};

// Takes what this rank has posted.
class OwnTaker final : public TokenMailbox {
 public:
  OwnTaker(std::shared_ptr<GlooRank> rank, std::shared_ptr<OwnMail> own)
      : rank_(std::move(rank)), own_(std::move(own)) {}

  absl::Status Post(uint64_t, std::span<const int32_t>) override {
    return absl::InternalError("this end of the mailbox takes");
  }
  absl::Status Take(uint64_t step, std::span<int32_t> tokens) override {
    if (own_->messages.empty()) return rank_->mesh->WaitForAbort("sampled tokens");  // nobody else posts
    const OwnMail::Message& message = own_->messages.front();
    if (message.step != step || message.tokens.size() != tokens.size()) {
      return Diverged(message.step, message.tokens.size(), step, tokens.size());
    }
    std::copy(message.tokens.begin(), message.tokens.end(), tokens.begin());
    own_->messages.pop_front();
    return absl::OkStatus();
  }

 private:
  const std::shared_ptr<GlooRank> rank_;
  const std::shared_ptr<OwnMail> own_;
};

}  // namespace

absl::StatusOr<GlooMailboxes> MakeGlooMailboxes(std::shared_ptr<GlooRank> rank) {
  const int writer = rank->sampling_rank();
  const size_t bytes = rank->shape.max_samples * sizeof(int32_t);
  const int at_reader = std::max(1, rank->shape.mailbox_slots / 2);
  const int at_writer = std::max(1, rank->shape.mailbox_slots - at_reader);
  GlooMailboxes out;
  std::shared_ptr<OwnMail> own;
  if (rank->rank == writer && rank->stage == 0) own = std::make_shared<OwnMail>();
  if (rank->rank == writer) {
    std::vector<GlooSender*> readers;
    for (int reader = 0; reader < rank->shape.tp; ++reader) {
      if (reader == writer) continue;
      SHOAL_ASSIGN_OR_RETURN(readers.emplace_back(), rank->mesh->AddSender(reader, GlooTag::kToken, at_writer, bytes));
    }
    out.out = std::make_unique<GlooPoster>(rank, std::move(readers), own);
  }
  if (own != nullptr) {
    out.in = std::make_unique<OwnTaker>(rank, own);
  } else if (rank->stage == 0) {
    SHOAL_ASSIGN_OR_RETURN(GlooReceiver* const link,
                           rank->mesh->AddReceiver(writer, GlooTag::kToken, at_reader, bytes));
    out.in = std::make_unique<GlooTaker>(rank, link);
  }
  return out;
}

}  // namespace shoal::comm
