// Tested by: tests/comm/nccl_test.cc, tests/comm/collective_test.cc
#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/dtype.h"
#include "common/base/status_macros.h"
#include "worker/comm/all_reduce.h"
#include "worker/comm/nccl_channels.h"

namespace shoal::comm {
namespace {

constexpr int64_t kVector = 8;  // elements: slices begin where a 16-byte access of bf16 may

int64_t Ceil(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

size_t ScratchBytes(int ranks) { return std::max(kNcclPieceBytes, static_cast<size_t>(ranks) * NcclOneShotBytes()); }

class NcclTensor final : public TensorChannel {
 public:
  NcclTensor(std::shared_ptr<NcclRank> rank, NcclLink* link, std::byte* scratch)
      : rank_(std::move(rank)), link_(link), scratch_(scratch), table_(rank_->accelerator().table()) {}

  int size() const override { return link_ == nullptr ? 1 : link_->size(); }
  int index() const override { return link_ == nullptr ? 0 : link_->index(); }

  absl::Status AllReduceSum(ops::Acts data, int64_t count) override {
    if (size() == 1 || count == 0) return absl::OkStatus();
    auto* const bytes = data.as<std::byte>();
    PeerMemory* const peers = rank_->peers();
    switch (ChooseAllReduce(size(), static_cast<size_t>(count) * element_, peers != nullptr)) {
      case AllReduceAlgorithm::kPeer:
        SHOAL_RETURN_IF_ERROR(rank_->Check());
        rank_->stats.over(Transport::kPeer).tensor += count * static_cast<int64_t>(element_) * (size() - 1);
        return peers->AllReduceSum(data, count);
      case AllReduceAlgorithm::kOneShot:
        return OneShot(bytes, count);
      case AllReduceAlgorithm::kTwoShot:
        break;
    }
    // Whole vectors for each rank, so that all pieces but the last are cut evenly.
    const int64_t piece = static_cast<int64_t>(ScratchBytes(size()) / element_) / (size() * kVector) * size() * kVector;
    for (int64_t at = 0; at < count; at += piece) {
      SHOAL_RETURN_IF_ERROR(TwoShot(bytes + static_cast<size_t>(at) * element_, std::min(piece, count - at)));
    }
    return absl::OkStatus();
  }

  absl::Status GatherColumns(std::span<const float> part, int rows, std::span<const int32_t> widths, float* dst,
                             int64_t stride) override {
    if (static_cast<int>(widths.size()) != size() || part.size() != static_cast<size_t>(rows) * widths[index()]) {
      return absl::InternalError(absl::StrCat("gather: ", part.size(), " values for ", rows, " rows"));
    }
    if (index() == 0) SHOAL_RETURN_IF_ERROR(Place(part.data(), rows, widths[0], dst, stride));
    const int64_t others = std::accumulate(widths.begin() + 1, widths.end(), int64_t{0});
    if (others == 0 || rows == 0) return absl::OkStatus();
    // All ranks cut alike.
    const int64_t piece = static_cast<int64_t>(ScratchBytes(size()) / sizeof(float)) / others;
    if (piece == 0) {
      return absl::InvalidArgumentError(absl::StrCat("gather: a row of ", others, " columns is too long"));
    }
    for (int64_t row = 0; row < rows; row += piece) {
      const int n = static_cast<int>(std::min<int64_t>(piece, rows - row));
      SHOAL_RETURN_IF_ERROR(index() == 0 ? Collect(n, widths, dst + row * stride, stride)
                                         : Give(part.data() + row * widths[index()], n * int64_t{widths[index()]}));
    }
    return absl::OkStatus();
  }

 private:
  // Everybody reads all and sums all.
  absl::Status OneShot(std::byte* data, int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * element_;
    rank_->sent().tensor += static_cast<int64_t>(bytes) * (size() - 1);
    SHOAL_RETURN_IF_ERROR(link_->AllGather(data, scratch_, bytes));
    return Sum(count, data, count);
  }

  // Everybody sums its slice, then reads the sums of the others.
  absl::Status TwoShot(std::byte* data, int64_t count) {
    const int64_t slice = Ceil(Ceil(count, size()) / size(), kVector);
    const auto begin = [&](int r) { return std::min(count, slice * r); };
    const auto at = [&](int r) { return data + static_cast<size_t>(begin(r)) * element_; };
    const auto bytes = [&](int r) { return static_cast<size_t>(begin(r + 1) - begin(r)) * element_; };
    const size_t mine = bytes(index());

    transfers_.clear();
    for (int r = 0; r < size(); ++r) {
      std::byte* const part = scratch_ + static_cast<size_t>(slice * r) * element_;
      if (r == index()) {
        if (mine > 0) SHOAL_RETURN_IF_ERROR(rank_->accelerator().Copy(part, at(r), mine));
        continue;
      }
      if (bytes(r) > 0) Send(r, at(r), bytes(r));
      if (mine > 0) transfers_.push_back({.peer = r, .receive = part, .bytes = mine});
    }
    SHOAL_RETURN_IF_ERROR(link_->Exchange(transfers_));
    if (mine > 0) SHOAL_RETURN_IF_ERROR(Sum(slice, at(index()), begin(index() + 1) - begin(index())));

    if (slice * size() == count) {
      rank_->sent().tensor += static_cast<int64_t>(mine) * (size() - 1);
      return link_->AllGather(at(index()), data, mine);
    }
    transfers_.clear();
    for (int r = 0; r < size(); ++r) {
      if (r == index()) continue;
      if (mine > 0) Send(r, at(index()), mine);
      if (bytes(r) > 0) transfers_.push_back({.peer = r, .receive = at(r), .bytes = bytes(r)});
    }
    return link_->Exchange(transfers_);
  }

  // y = the sum of the parts in scratch, `stride` elements apart.
  absl::Status Sum(int64_t stride, std::byte* y, int64_t count) {
    return table_.sum_ranks(rank_->accelerator().stream(), {ops::ConstActs(static_cast<const void*>(scratch_)), stride,
                                                            size(), ops::Acts(static_cast<void*>(y)), count});
  }

  absl::Status Give(const float* part, int64_t values) {
    if (values == 0) return absl::OkStatus();
    transfers_.clear();
    Send(0, part, static_cast<size_t>(values) * sizeof(float));
    return link_->Exchange(transfers_);
  }

  // `rows` rows of the columns of all others.
  absl::Status Collect(int rows, std::span<const int32_t> widths, float* dst, int64_t stride) {
    auto* part = reinterpret_cast<float*>(scratch_);
    transfers_.clear();
    for (int r = 1; r < size(); ++r) {
      const int64_t values = int64_t{widths[r]} * rows;
      if (values > 0) {
        transfers_.push_back({.peer = r, .receive = part, .bytes = static_cast<size_t>(values) * sizeof(float)});
      }
      part += values;
    }
    SHOAL_RETURN_IF_ERROR(link_->Exchange(transfers_));
    part = reinterpret_cast<float*>(scratch_);
    int64_t column = widths[0];
    for (int r = 1; r < size(); ++r) {
      SHOAL_RETURN_IF_ERROR(Place(part, rows, widths[r], dst + column, stride));
      part += int64_t{widths[r]} * rows;
      column += widths[r];
    }
    return absl::OkStatus();
  }

  absl::Status Place(const float* part, int rows, int width, float* dst, int64_t stride) {
    return table_.place_columns(rank_->accelerator().stream(), {part, dst, stride, rows, width});
  }

  void Send(int peer, const void* data, size_t bytes) {
    transfers_.push_back({.peer = peer, .send = data, .bytes = bytes});
    rank_->sent().tensor += static_cast<int64_t>(bytes);
  }

  const std::shared_ptr<NcclRank> rank_;
  NcclLink* const link_;
  std::byte* const scratch_;
  const ops::OpTable& table_;
  const size_t element_ = RowBytes(table_.acts, 1);
  std::vector<NcclComm::Transfer> transfers_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TensorChannel>> MakeNcclTensor(std::shared_ptr<NcclRank> rank, NcclLink* link) {
  std::byte* scratch = nullptr;
  if (link != nullptr) {
    SHOAL_ASSIGN_OR_RETURN(scratch, rank->Allocate(ScratchBytes(link->size())));
  }
  return std::make_unique<NcclTensor>(std::move(rank), link, scratch);
}

}  // namespace shoal::comm
