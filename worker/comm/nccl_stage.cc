// Tested by: tests/comm/nccl_test.cc
#include "worker/comm/nccl_channels.h"

namespace shoal::comm {
namespace {

// Ranks of a line lie one stage apart.
class NcclSender final : public StageSender {
 public:
  NcclSender(std::shared_ptr<NcclRank> rank, NcclLink* link) : rank_(std::move(rank)), link_(link) {}

  absl::Status Send(std::span<const std::byte> data) override {
    if (data.empty()) return absl::OkStatus();
    rank_->sent().activation += static_cast<int64_t>(data.size());
    const NcclComm::Transfer to_next[] = {{.peer = link_->index() + 1, .send = data.data(), .bytes = data.size()}};
    return link_->Exchange(to_next);
  }

 private:
  const std::shared_ptr<NcclRank> rank_;
  NcclLink* const link_;
};

class NcclReceiver final : public StageReceiver {
 public:
  NcclReceiver(std::shared_ptr<NcclRank> rank, NcclLink* link) : rank_(std::move(rank)), link_(link) {}

  absl::Status Receive(std::span<std::byte> data) override {
    if (data.empty()) return absl::OkStatus();
    const NcclComm::Transfer from_previous[] = {
        {.peer = link_->index() - 1, .receive = data.data(), .bytes = data.size()}};
    return link_->Exchange(from_previous);
  }

 private:
  const std::shared_ptr<NcclRank> rank_;
  NcclLink* const link_;
};

}  // namespace

std::unique_ptr<StageSender> MakeNcclSender(std::shared_ptr<NcclRank> rank, NcclLink* link) {
  return std::make_unique<NcclSender>(std::move(rank), link);
}

std::unique_ptr<StageReceiver> MakeNcclReceiver(std::shared_ptr<NcclRank> rank, NcclLink* link) {
  return std::make_unique<NcclReceiver>(std::move(rank), link);
}

}  // namespace shoal::comm
