// Tested by: tests/comm/collective_test.cc
// Every operation, or piece of a large one, is a message from each rank that has something to say to each that must
// hear it, with what all must agree on. Nobody waits for room: a rank that has heard s of its peers knows that they
// have taken its s - 1, and each end of a link has a slot for s and one for s + 1.
#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/comm/columns.h"
#include "worker/comm/gloo_channels.h"
#include "worker/comm/gloo_link.h"
#include "worker/comm/sum.h"

namespace shoal::comm {
namespace {

// Up to here everybody sends everything to everybody (one trip); above, each rank sums a slice (two trips, fewer
// bytes).
constexpr size_t kOneShotFloats = 16 * 1024 / sizeof(float);
// The largest message: long against the cost of a trip, short enough that four for each peer take little memory.
constexpr size_t kSlotFloats = 128 * 1024 / sizeof(float);
constexpr size_t kSliceFloats = 16;  // slices begin on cache lines
constexpr int kSlotsHere = 2;

enum Kind : uint64_t { kOneShot = 1, kParts, kSums, kGather, kDiverged };

class GlooTensor final : public TensorChannel {
 public:
  explicit GlooTensor(std::shared_ptr<GlooRank> rank) : rank_(std::move(rank)), parts_(rank_->shape.tp) {}

  absl::Status Start() {
    for (int r = 0; r < size(); ++r) {
      Link& link = links_.emplace_back();
      if (r == index()) continue;
      const int peer = rank_->stage * size() + r;
      GlooMesh& mesh = *rank_->mesh;
      SHOAL_ASSIGN_OR_RETURN(link.out, mesh.AddSender(peer, GlooTag::kTensor, kSlotsHere, kSlotFloats * sizeof(float)));
      SHOAL_ASSIGN_OR_RETURN(link.in,
                             mesh.AddReceiver(peer, GlooTag::kTensor, kSlotsHere, kSlotFloats * sizeof(float)));
    }
    return absl::OkStatus();
  }

  int size() const override { return rank_->shape.tp; }
  int index() const override { return rank_->tensor_index; }

  absl::Status AllReduceSum(ops::Acts acts, int64_t count) override {
    if (size() == 1) return absl::OkStatus();
    std::span<float> data(acts.as<float>(), static_cast<size_t>(count));
    const size_t piece_floats = static_cast<size_t>(size()) * (kSlotFloats - 2 * kSliceFloats);
    while (!data.empty()) {
      const auto piece = data.first(std::min(data.size(), piece_floats));
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
    if (index() == 0) {
      CopyColumns(part.data(), 0, part.size(), widths[0], dst, stride);
      return TakeColumns(rows, widths, dst, stride);
    }
    for (size_t begin = 0; begin < part.size(); begin += kSlotFloats) {
      SHOAL_RETURN_IF_ERROR(Put(0, kGather, begin, part.subspan(begin, Piece(begin, part.size()))));
    }
    return absl::OkStatus();
  }

 private:
  struct Link {
    GlooSender* out = nullptr;
    GlooReceiver* in = nullptr;
  };

  static size_t Piece(size_t begin, size_t total) { return std::min(total - begin, kSlotFloats); }
  size_t SliceBegin(int r, size_t count) const {
    return r == size() ? count : count / kSliceFloats * r / size() * kSliceFloats;
  }
  std::span<float> Slice(std::span<float> data, int r) const {
    const size_t begin = SliceBegin(r, data.size());
    return data.subspan(begin, SliceBegin(r + 1, data.size()) - begin);
  }

  absl::Status Put(int r, Kind kind, size_t note, std::span<const float> values) {
    SHOAL_ASSIGN_OR_RETURN(std::byte* const slot, links_[r].out->Open("room for tensor data"));
    if (!values.empty()) std::memcpy(slot, values.data(), values.size_bytes());
    SHOAL_RETURN_IF_ERROR(links_[r].out->Send(kind, note, values.size_bytes()));
    rank_->stats.over(Transport::kGloo).tensor += static_cast<int64_t>(values.size_bytes());
    return absl::OkStatus();
  }

  // The values that rank r sent for this operation; good until Done().
  absl::StatusOr<const float*> Take(int r, Kind kind, size_t note, size_t count) {
    SHOAL_ASSIGN_OR_RETURN(const GlooReceiver::Message message, links_[r].in->Next("tensor data"));
    if (message.kind == kind && message.note == note && message.payload.size() == count * sizeof(float)) {
      return reinterpret_cast<const float*>(message.payload.data());
    }
    // Those that wait for this rank's part of an operation that it will never come to must hear of it.
    for (int p = 0; p < size(); ++p) {
      if (p == index() || !links_[p].out->Open("room for tensor data").ok()) continue;
      links_[p].out->Send(kDiverged, 0, 0).IgnoreError();
    }
    return absl::InternalError(
        absl::StrCat("ranks have diverged: tensor ranks ", index(), " and ", r, " disagree on an operation"));
  }

  void DoneWithAll() {
    for (int r = 0; r < size(); ++r) {
      if (r != index()) links_[r].in->Done();
    }
  }

  // Everybody's part of `data` in rank order, this rank's from a copy: sums go where it lies.
  absl::Status TakeParts(Kind kind, size_t note, std::span<const float> mine) {
    own_.assign(mine.begin(), mine.end());
    for (int r = 0; r < size(); ++r) {
      parts_[r] = own_.data();
      if (r == index()) continue;
      SHOAL_ASSIGN_OR_RETURN(parts_[r], Take(r, kind, note, mine.size()));
    }
    return absl::OkStatus();
  }

  absl::Status OneShot(std::span<float> data) {
    for (int r = 0; r < size(); ++r) {
      if (r != index()) SHOAL_RETURN_IF_ERROR(Put(r, kOneShot, data.size(), data));
    }
    SHOAL_RETURN_IF_ERROR(TakeParts(kOneShot, data.size(), data));
    SumInOrder(parts_, data.size(), data.data());
    DoneWithAll();
    return absl::OkStatus();
  }

  absl::Status TwoShot(std::span<float> data) {
    for (int r = 0; r < size(); ++r) {
      if (r != index()) SHOAL_RETURN_IF_ERROR(Put(r, kParts, data.size(), Slice(data, r)));
    }
    const std::span<float> mine = Slice(data, index());
    SHOAL_RETURN_IF_ERROR(TakeParts(kParts, data.size(), mine));
    SumInOrder(parts_, mine.size(), mine.data());
    DoneWithAll();
    for (int r = 0; r < size(); ++r) {
      if (r != index()) SHOAL_RETURN_IF_ERROR(Put(r, kSums, data.size(), mine));
    }
    for (int r = 0; r < size(); ++r) {
      if (r == index()) continue;
      const std::span<float> theirs = Slice(data, r);
      SHOAL_ASSIGN_OR_RETURN(const float* const sums, Take(r, kSums, data.size(), theirs.size()));
      std::copy_n(sums, theirs.size(), theirs.data());
    }
    DoneWithAll();
    return absl::OkStatus();
  }

  absl::Status TakeColumns(int rows, std::span<const int32_t> widths, float* dst, int64_t stride) {
    int64_t column = widths[0];
    for (int r = 1; r < size(); ++r) {
      const size_t total = static_cast<size_t>(rows) * widths[r];
      for (size_t begin = 0; begin < total; begin += kSlotFloats) {
        const size_t count = Piece(begin, total);
        SHOAL_ASSIGN_OR_RETURN(const float* const values, Take(r, kGather, begin, count));
        CopyColumns(values, begin, count, widths[r], dst + column, stride);
        links_[r].in->Done();
      }
      column += widths[r];
    }
    return absl::OkStatus();
  }

  const std::shared_ptr<GlooRank> rank_;
  std::vector<Link> links_;  // by tensor index; own: empty
  std::vector<const float*> parts_;
  std::vector<float> own_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TensorChannel>> MakeGlooTensor(std::shared_ptr<GlooRank> rank) {
  auto channel = std::make_unique<GlooTensor>(std::move(rank));
  SHOAL_RETURN_IF_ERROR(channel->Start());
  return channel;
}

}  // namespace shoal::comm
