// Tested by: tests/comm/nccl_peers_test.cc, tests/comm/collective_test.cc
#include "worker/comm/peer_memory.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "kernels/ops/all_reduce.h"

namespace shoal::comm {

absl::StatusOr<std::unique_ptr<PeerMemory>> PeerMemory::Create(ops::Accelerator* accelerator) {
  if (accelerator->table().all_reduce == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(std::string(accelerator->table().name), " has no operation over memory that devices share"));
  }
  SHOAL_ASSIGN_OR_RETURN(DescriptorPort port, DescriptorPort::Open());
  std::unique_ptr<PeerMemory> memory(new PeerMemory(accelerator, std::move(port)));
  SHOAL_RETURN_IF_ERROR(memory->Make());
  return memory;
}

absl::Status PeerMemory::Make() {
  SHOAL_ASSIGN_OR_RETURN(offer_.host, DescriptorHost());
  offer_.port = port_.address();
  SHOAL_ASSIGN_OR_RETURN(offer_.device, accelerator_->Id());
  SHOAL_ASSIGN_OR_RETURN(own_, accelerator_->CreateShared(ops::kAllReduceAreaBytes));
  offer_.bytes = own_.bytes;
  SHOAL_ASSIGN_OR_RETURN(own_area_, accelerator_->MapShared(own_.fd, own_.bytes));
  constexpr size_t kRoundBytes = ops::kAllReduceBlocks * sizeof(uint32_t);
  SHOAL_ASSIGN_OR_RETURN(void* const rounds, accelerator_->Allocate(kRoundBytes));
  rounds_ = static_cast<uint32_t*>(rounds);
  SHOAL_ASSIGN_OR_RETURN(void* const abort, accelerator_->AllocatePinned(sizeof(uint32_t)));
  abort_ = static_cast<uint32_t*>(abort);
  *abort_ = 0;
  SHOAL_RETURN_IF_ERROR(accelerator_->Fill(own_area_, 0, own_.bytes));
  SHOAL_RETURN_IF_ERROR(accelerator_->Fill(rounds_, 0, kRoundBytes));
  return accelerator_->Synchronise();  // before anybody is told of it
}

PeerMemory::~PeerMemory() {
  for (size_t r = 0; r < areas_.size(); ++r) {
    if (areas_[r] != nullptr && areas_[r] != own_area_) accelerator_->UnmapShared(areas_[r], own_.bytes);
  }
  if (own_area_ != nullptr) accelerator_->UnmapShared(own_area_, own_.bytes);
  if (own_.fd >= 0) ::close(own_.fd);
  accelerator_->Free(rounds_);
  accelerator_->FreePinned(abort_);
}

absl::Status PeerMemory::Map(std::span<const PeerOffer> offers, int index, TimeNs deadline,
                             const std::function<absl::Status()>& check) {
  SHOAL_CHECK(areas_.empty() && index >= 0 && static_cast<size_t>(index) < offers.size());
  const auto ranks = static_cast<int>(offers.size());
  const auto named = [](int rank, const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat("tensor rank ", rank, ": ", status.message()));
  };
  index_ = index;
  for (int r = 0; r < ranks; ++r) {
    if (r == index) continue;
    const absl::Status sent = DescriptorPort::Send(offers[static_cast<size_t>(r)].port, index, own_.fd);
    if (!sent.ok()) return named(r, sent);
  }
  SHOAL_ASSIGN_OR_RETURN(const std::vector<int> fds, port_.Receive(ranks, index, deadline, check));
  areas_.resize(offers.size());
  areas_[static_cast<size_t>(index)] = own_area_;
  absl::Status mapped;
  for (int r = 0; r < ranks; ++r) {
    if (r == index) continue;
    const PeerOffer& offer = offers[static_cast<size_t>(r)];
    const int fd = fds[static_cast<size_t>(r)];
    if (mapped.ok()) {
      const absl::StatusOr<void*> area = accelerator_->MapPeer(fd, offer.bytes, offer.device);
      if (area.ok()) areas_[static_cast<size_t>(r)] = *area;
      mapped = area.ok() ? absl::OkStatus() : named(r, area.status());
    }
    ::close(fd);
  }
  ::close(std::exchange(own_.fd, -1));  // mappings keep the memory
  return mapped;
}

absl::Status PeerMemory::AllReduceSum(ops::Acts data, int64_t count) {
  ops::AllReduceArgs args = {.x = data,
                             .y = data,
                             .count = count,
                             .rank = index_,
                             .ranks = static_cast<int>(areas_.size()),
                             .areas = {},
                             .rounds = rounds_,
                             .abort = abort_};
  SHOAL_CHECK(!areas_.empty() && areas_.size() <= ops::kAllReduceMaxRanks);
  std::transform(areas_.begin(), areas_.end(), args.areas, [](void* area) { return static_cast<std::byte*>(area); });
  return accelerator_->table().all_reduce(accelerator_->stream(), args);
}

void PeerMemory::Abort() { std::atomic_ref<uint32_t>(*abort_).store(1, std::memory_order_relaxed); }

}  // namespace shoal::comm
