// Every operation, or piece of a large one, has a sequence number s. A rank that has published s has written its part
// of s and has read everything of s - 1; so slot s % 2 may be written as soon as all ranks have published s - 1.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/comm/columns.h"
#include "worker/comm/shm_channels.h"
#include "worker/comm/sum.h"

namespace shoal::comm {
namespace {

// Up to here everybody reads everything (one meeting); above, each rank sums a slice (two meetings, less reading).
constexpr size_t kOneShotFloats = 16 * 1024 / sizeof(float);
constexpr size_t kSliceFloats = 16;  // slices begin on cache lines

enum Kind : uint64_t { kOneShot = 1, kParts = 2, kSums = 3, kGather = 4 };

class ShmTensor final : public TensorChannel {
 public:
  explicit ShmTensor(std::shared_ptr<ShmRank> rank)
      : rank_(std::move(rank)), slot_floats_(rank_->layout.tensor_slot / sizeof(float)), parts_(rank_->shape.tp) {}

  int size() const override { return rank_->shape.tp; }
  int index() const override { return rank_->tensor_index; }

  absl::Status AllReduceSum(ops::Acts acts, int64_t count) override {
    if (size() == 1) return absl::OkStatus();
    std::span<float> data(acts.as<float>(), static_cast<size_t>(count));
    while (!data.empty()) {
      const auto piece = data.first(std::min(data.size(), slot_floats_));
      SHOAL_RETURN_IF_ERROR(piece.size() <= kOneShotFloats ? OneShot(piece) : TwoShot(piece));
      data = data.subspan(piece.size());
    }
    return absl::OkStatus();
  }

  absl::Status GatherColumns(std::span<const float> part, int rows, std::span<const int32_t> widths, float* dst,
                             int64_t stride) override {
    if (static_cast<int>(widths.size()) != size() || part.size() != static_cast<size_t>(rows) * widths[index()]) {
      return absl::InternalError(absl::StrCat("gather: ", part.size(), " values for ", rows, " rows"));
    }
    const size_t widest = static_cast<size_t>(rows) * *std::max_element(widths.begin(), widths.end());
    if (index() == 0) CopyColumns(part.data(), 0, part.size(), widths[0], dst, stride);
    for (size_t begin = 0; size() > 1 && begin < widest; begin += slot_floats_) {
      const size_t mine = index() == 0 ? 0 : Piece(begin, part.size());
      SHOAL_RETURN_IF_ERROR(Write(kGather, mine > 0 ? &part[begin] : nullptr, mine, begin));
      if (index() == 0) SHOAL_RETURN_IF_ERROR(TakeColumns(begin, rows, widths, dst, stride));
    }
    return absl::OkStatus();
  }

 private:
  static uint64_t Note(Kind kind, size_t count) { return static_cast<uint64_t>(kind) << 56 | count; }

  Signal* SignalOf(int r) const {
    const int rank = rank_->stage * size() + r;
    return rank_->SignalAt(rank_->layout.tensor + rank * rank_->layout.tensor_stride);
  }
  float* Slot(int r, uint32_t s) const {
    return reinterpret_cast<float*>(reinterpret_cast<std::byte*>(SignalOf(r) + 1) + s % 2 * rank_->layout.tensor_slot);
  }
  size_t Piece(size_t begin, size_t total) const { return begin < total ? std::min(total - begin, slot_floats_) : 0; }

  absl::Status WaitAll(uint32_t s) {
    for (int r = 0; r < size(); ++r) {
      const int peer = rank_->stage * size() + r;
      if (r != index()) SHOAL_RETURN_IF_ERROR(rank_->waiter.Wait(*SignalOf(r), s, "tensor data", peer));
    }
    return absl::OkStatus();
  }

  // Opens the next sequence number, with `count` floats of this rank in its slot; `note` is what all must agree on.
  absl::Status Write(Kind kind, const float* from, size_t count, size_t note) {
    SHOAL_RETURN_IF_ERROR(WaitAll(sequence_));
    ++sequence_;
    if (count > 0) std::memcpy(Slot(index(), sequence_), from, count * sizeof(float));
    Open(kind, count, note);
    return absl::OkStatus();
  }
  void Open(Kind kind, size_t count, size_t note) {
    rank_->stats.over(Transport::kShm).tensor += static_cast<int64_t>(count * sizeof(float));
    SignalOf(index())->note[sequence_ % 2] = Note(kind, note);
    Publish(*SignalOf(index()), sequence_);
  }

  // Waits for the others' parts of the present number and checks that they are doing the same thing.
  absl::Status Meet(Kind kind, size_t note) {
    SHOAL_RETURN_IF_ERROR(WaitAll(sequence_));
    for (int r = 0; r < size(); ++r) {
      if (SignalOf(r)->note[sequence_ % 2] == Note(kind, note)) continue;
      return absl::InternalError(
          absl::StrCat("ranks have diverged: tensor rank ", index(), " and ", r, " disagree on operation ", sequence_));
    }
    return absl::OkStatus();
  }

  absl::Status OneShot(std::span<float> data) {
    SHOAL_RETURN_IF_ERROR(Write(kOneShot, data.data(), data.size(), data.size()));
    SHOAL_RETURN_IF_ERROR(Meet(kOneShot, data.size()));
    for (int r = 0; r < size(); ++r) parts_[r] = Slot(r, sequence_);
    SumInOrder(parts_, data.size(), data.data());
    return absl::OkStatus();
  }

  absl::Status TwoShot(std::span<float> data) {
    const size_t count = data.size();
    SHOAL_RETURN_IF_ERROR(Write(kParts, data.data(), count, count));
    SHOAL_RETURN_IF_ERROR(Meet(kParts, count));
    const size_t begin = SliceBegin(index(), count), mine = SliceBegin(index() + 1, count) - begin;
    for (int r = 0; r < size(); ++r) parts_[r] = Slot(r, sequence_) + begin;
    ++sequence_;
    SumInOrder(parts_, mine, Slot(index(), sequence_) + begin);
    Open(kSums, mine, count);
    SHOAL_RETURN_IF_ERROR(Meet(kSums, count));
    for (int r = 0; r < size(); ++r) {
      const size_t from = SliceBegin(r, count), n = SliceBegin(r + 1, count) - from;
      std::memcpy(data.data() + from, Slot(r, sequence_) + from, n * sizeof(float));
    }
    return absl::OkStatus();
  }
  size_t SliceBegin(int r, size_t count) const {
    return r == size() ? count : count / kSliceFloats * r / size() * kSliceFloats;
  }

  absl::Status TakeColumns(size_t begin, int rows, std::span<const int32_t> widths, float* dst, int64_t stride) {
    SHOAL_RETURN_IF_ERROR(Meet(kGather, begin));
    int64_t column = widths[0];
    for (int r = 1; r < size(); ++r) {
      const size_t n = Piece(begin, static_cast<size_t>(rows) * widths[r]);
      if (n > 0) CopyColumns(Slot(r, sequence_), begin, n, widths[r], dst + column, stride);
      column += widths[r];
    }
    return absl::OkStatus();
  }

  const std::shared_ptr<ShmRank> rank_;
  const size_t slot_floats_;
  uint32_t sequence_ = 0;  // the last one opened
  std::vector<const float*> parts_;
};

}  // namespace

std::unique_ptr<TensorChannel> MakeShmTensor(std::shared_ptr<ShmRank> rank) {
  return std::make_unique<ShmTensor>(std::move(rank));
}

}  // namespace shoal::comm
