// Tested by: tests/comm/channels_test.cc
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/comm/gloo_channels.h"
#include "worker/comm/gloo_link.h"

namespace shoal::comm {
namespace {

constexpr uint64_t kActivations = 1;
// One at each end: two messages may be under way, as over shared memory.
constexpr int kSlotsHere = 1;

class GlooStageSender final : public StageSender {
 public:
  GlooStageSender(std::shared_ptr<GlooRank> rank, GlooSender* link) : rank_(std::move(rank)), link_(link) {}

  absl::Status Send(std::span<const std::byte> data) override {
    if (static_cast<int64_t>(data.size()) > rank_->shape.max_activation_bytes) {
      return absl::InternalError(absl::StrCat("activations of ", data.size(), " bytes exceed the channel's ",
                                              rank_->shape.max_activation_bytes));
    }
    SHOAL_ASSIGN_OR_RETURN(std::byte* const slot, link_->Open("room for activations"));
    if (!data.empty()) std::memcpy(slot, data.data(), data.size());
    SHOAL_RETURN_IF_ERROR(link_->Send(kActivations, 0, data.size()));
    rank_->stats.over(Transport::kGloo).activation += static_cast<int64_t>(data.size());
    return absl::OkStatus();
  }

 private:
  const std::shared_ptr<GlooRank> rank_;
  GlooSender* const link_;
};

class GlooStageReceiver final : public StageReceiver {
 public:
  GlooStageReceiver(std::shared_ptr<GlooRank> rank, GlooReceiver* link) : rank_(std::move(rank)), link_(link) {}

  absl::Status Receive(std::span<std::byte> data) override {
    SHOAL_ASSIGN_OR_RETURN(const GlooReceiver::Message message, link_->Next("activations"));
    if (message.kind != kActivations || message.payload.size() != data.size()) {
      return absl::InternalError(absl::StrCat("ranks have diverged: rank ", link_->peer(), " sent ",
                                              message.payload.size(), " bytes of activations, ", data.size(),
                                              " were expected"));
    }
    if (!data.empty()) std::memcpy(data.data(), message.payload.data(), data.size());
    link_->Done();
    return absl::OkStatus();
  }

 private:
  const std::shared_ptr<GlooRank> rank_;  // owns the link
  GlooReceiver* const link_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<StageSender>> MakeGlooSender(std::shared_ptr<GlooRank> rank) {
  SHOAL_ASSIGN_OR_RETURN(GlooSender* const link,
                         rank->mesh->AddSender(rank->rank + rank->shape.tp, GlooTag::kActivation, kSlotsHere,
                                               static_cast<size_t>(rank->shape.max_activation_bytes)));
  return std::make_unique<GlooStageSender>(std::move(rank), link);
}

absl::StatusOr<std::unique_ptr<StageReceiver>> MakeGlooReceiver(std::shared_ptr<GlooRank> rank) {
  SHOAL_ASSIGN_OR_RETURN(GlooReceiver* const link,
                         rank->mesh->AddReceiver(rank->rank - rank->shape.tp, GlooTag::kActivation, kSlotsHere,
                                                 static_cast<size_t>(rank->shape.max_activation_bytes)));
  return std::make_unique<GlooStageReceiver>(std::move(rank), link);
}

}  // namespace shoal::comm
