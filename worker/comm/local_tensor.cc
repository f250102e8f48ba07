// Tested by: tests/comm/collective_test.cc
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/comm/local_channels.h"
#include "worker/comm/sum.h"

namespace shoal::comm {

// Operations in order, oldest first; each rank is at one of them. Buffered: a part that others still read is a copy.
class LocalTensorGroup {
 public:
  explicit LocalTensorGroup(int size) : size_(size) {}
  int size() const { return size_; }

  absl::Status AllReduce(int index, uint64_t number, std::span<float> data, LocalRank& rank) {
    MutexLock lock(mutex_);
    SHOAL_RETURN_IF_ERROR(Arrive(index, number, Kind::kSum, data.size(), data));
    SHOAL_RETURN_IF_ERROR(WaitForAll(index, number, rank));
    Operation& op = At(number);
    if (op.sum.empty() && !data.empty()) {  // all others are in this call too: their data stands still
      op.sum.resize(data.size());
      std::vector<const float*> parts;
      for (const auto& part : op.parts) parts.push_back(part.data());
      SumInOrder(parts, data.size(), op.sum.data());
    }
    // Nobody overwrites its part before the sum was made: it was made by the first to come here, under the lock.
    std::copy(op.sum.begin(), op.sum.end(), data.begin());
    Leave(number);
    return absl::OkStatus();
  }

  // Rank 0 calls `take` with all parts; the others only bring theirs.
  template <typename Take>
  absl::Status Gather(int index, uint64_t number, std::span<const float> part, size_t rows, LocalRank& rank,
                      Take take) {
    MutexLock lock(mutex_);
    SHOAL_RETURN_IF_ERROR(Arrive(index, number, Kind::kGather, rows, part));
    Operation& op = At(number);  // stays put: a deque only grows and shrinks at its ends
    if (index == 0) {
      SHOAL_RETURN_IF_ERROR(WaitForAll(index, number, rank));
      take(op.parts);
      op.taken = true;
      changed_.NotifyAll();
    } else if (rank.mode == LocalMode::kBuffered) {
      op.copies.emplace_back(part.begin(), part.end());
      op.parts[index] = op.copies.back();
    } else {
      SHOAL_RETURN_IF_ERROR(WaitForTaker(index, op, rank));
    }
    Leave(number);
    return absl::OkStatus();
  }

 private:
  enum class Kind : uint8_t { kSum, kGather };
  struct Operation {
    Kind kind;
    size_t count;  // what all ranks must agree on
    int arrived = 0, left = 0;
    bool taken = false;
    std::vector<std::span<const float>> parts;
    std::deque<std::vector<float>> copies;
    std::vector<float> sum;
  };

  Operation& At(uint64_t number) SHOAL_REQUIRES(mutex_) { return operations_[number - first_]; }
  absl::Status Broken() SHOAL_REQUIRES(mutex_) {
    return broken_ ? absl::InternalError("ranks have diverged in the tensor channel") : absl::OkStatus();
  }

  absl::Status Arrive(int index, uint64_t number, Kind kind, size_t count, std::span<const float> part)
      SHOAL_REQUIRES(mutex_) {
    if (number == first_ + operations_.size()) {
      operations_.push_back(
          {.kind = kind, .count = count, .parts = std::vector<std::span<const float>>(size_), .copies = {}, .sum = {}});
    }
    Operation& op = At(number);
    if (op.kind != kind || op.count != count) broken_ = true;
    op.parts[index] = part;
    ++op.arrived;
    if (broken_ || op.arrived == size_) changed_.NotifyAll();
    return Broken();
  }
  absl::Status WaitForAll(int index, uint64_t number, LocalRank& rank) SHOAL_REQUIRES(mutex_) {
    while (!broken_ && At(number).arrived < size_) {
      const absl::Status slept = rank.Sleep(mutex_, changed_, "tensor data");
      if (!slept.ok()) return Retract(index, At(number), slept);
    }
    return Broken();
  }
  absl::Status WaitForTaker(int index, Operation& op, LocalRank& rank) SHOAL_REQUIRES(mutex_) {
    while (!broken_ && !op.taken) {
      const absl::Status slept = rank.Sleep(mutex_, changed_, "a taker of tensor data");
      if (!slept.ok()) return Retract(index, op, slept);
    }
    return Broken();
  }
  // An aborted rank goes away and takes its memory with it: the others must not read that.
  absl::Status Retract(int index, Operation& op, const absl::Status& why) SHOAL_REQUIRES(mutex_) {
    op.parts[index] = {};
    --op.arrived;
    return why;
  }
  void Leave(uint64_t number) SHOAL_REQUIRES(mutex_) {
    ++At(number).left;
    while (!operations_.empty() && operations_.front().left == size_) {
      operations_.pop_front();
      ++first_;
    }
  }

  const int size_;
  Mutex mutex_;
  CondVar changed_;
  uint64_t first_ SHOAL_GUARDED_BY(mutex_) = 0;  // number of the oldest operation
  std::deque<Operation> operations_ SHOAL_GUARDED_BY(mutex_);
  bool broken_ SHOAL_GUARDED_BY(mutex_) = false;
};

namespace {

class LocalTensor final : public TensorChannel {
 public:
  LocalTensor(std::shared_ptr<LocalTensorGroup> group, int index, std::shared_ptr<LocalRank> rank)
      : group_(std::move(group)), index_(index), rank_(std::move(rank)) {}

  int size() const override { return group_->size(); }
  int index() const override { return index_; }

  absl::Status AllReduceSum(ops::Acts acts, int64_t count) override {
    if (size() == 1) return absl::OkStatus();
    const std::span<float> data(acts.as<float>(), static_cast<size_t>(count));
    rank_->stats.over(Transport::kLocal).tensor += static_cast<int64_t>(data.size_bytes());
    return group_->AllReduce(index_, number_++, data, *rank_);
  }

  absl::Status GatherColumns(std::span<const float> part, int rows, std::span<const int32_t> widths, float* dst,
                             int64_t stride) override {
    if (static_cast<int>(widths.size()) != size() || part.size() != static_cast<size_t>(rows) * widths[index_]) {
      return absl::InternalError(absl::StrCat("gather: ", part.size(), " values for ", rows, " rows"));
    }
    const auto take = [&](const std::vector<std::span<const float>>& parts) {
      int64_t column = 0;
      for (int r = 0; r < size(); column += widths[r++]) {
        for (int row = 0; row < rows; ++row) {
          std::copy_n(parts[r].data() + static_cast<size_t>(row) * widths[r], widths[r], dst + row * stride + column);
        }
      }
    };
    if (index_ != 0) rank_->stats.over(Transport::kLocal).tensor += static_cast<int64_t>(part.size_bytes());
    return group_->Gather(index_, number_++, part, rows, *rank_, take);
  }

 private:
  const std::shared_ptr<LocalTensorGroup> group_;
  const int index_;
  const std::shared_ptr<LocalRank> rank_;
  uint64_t number_ = 0;  // of the next operation
};

}  // namespace

std::shared_ptr<LocalTensorGroup> MakeLocalTensorGroup(int size) { return std::make_shared<LocalTensorGroup>(size); }

std::unique_ptr<TensorChannel> MakeLocalTensor(std::shared_ptr<LocalTensorGroup> group, int index,
                                               std::shared_ptr<LocalRank> rank) {
  return std::make_unique<LocalTensor>(std::move(group), index, std::move(rank));
}

}  // namespace shoal::comm
