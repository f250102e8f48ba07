// Tested by: tests/graph/graph_test.cc
#include "worker/graph/staged_batch.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace shoal::graph {
namespace {

constexpr size_t kPieceAlignment = 16;
constexpr int64_t kSmallestBlock = 16;  // tokens: ops::KvLayer

int64_t AngleBytes(const model::Rope& rope, int64_t rows) {
  return rows * rope.dim * static_cast<int64_t>(sizeof(float));
}

// ids, slots, sample rows, angles, sequences (each has a row) and what lies between them.
int64_t BatchBytes(bool is_host, const DecoderOptions& o, const model::Rope& rope) {
  const int64_t row = sizeof(int32_t) + sizeof(int64_t) + sizeof(int32_t) + sizeof(ops::AttentionSequence);
  const int64_t fixed =
      o.max_tokens * row + o.max_samples * static_cast<int64_t>(sizeof(int32_t)) + 8 * kPieceAlignment;
  if (is_host) return fixed + AngleBytes(rope, o.max_tokens);
  const int64_t blocks = (o.max_context + kSmallestBlock - 1) / kSmallestBlock;
  return fixed + o.max_samples * blocks * static_cast<int64_t>(sizeof(int32_t));
}

}  // namespace

int64_t StagedBatch::Bytes(bool is_host, const DecoderOptions& options, const model::Rope& rope) {
  return BatchBytes(is_host, options, rope) + (is_host ? 0 : AngleBytes(rope, options.max_context));
}

absl::StatusOr<StagedBatch> StagedBatch::Create(device::Device* device, const DecoderOptions& options,
                                                const model::Rope& rope, int block_size) {
  StagedBatch staged(device, options, rope, block_size);
  const auto bytes = static_cast<size_t>(Bytes(device->is_host(), options, rope));
  SHOAL_ASSIGN_OR_RETURN(staged.memory_, device->Allocate(bytes));
  if (!device->is_host()) SHOAL_RETURN_IF_ERROR(staged.UploadAngles());
  return staged;
}

absl::Status StagedBatch::UploadAngles() {
  std::vector<int32_t> positions(options_.max_context);
  std::iota(positions.begin(), positions.end(), 0);
  const size_t values = positions.size() * static_cast<size_t>(rope_.width());
  std::vector<float> angles(2 * values);
  rope_.Fill(positions, angles.data(), angles.data() + values);
  sin_ = values * sizeof(float);
  begin_ = 2 * sin_;
  return device_->Upload(memory_.data(), angles.data(), begin_);
}

template <typename T>
T* StagedBatch::Reserve(size_t count, size_t* offset) {
  const size_t at = (host_.size() + kPieceAlignment - 1) / kPieceAlignment * kPieceAlignment;
  host_.resize(at + count * sizeof(T));
  *offset = begin_ + at;
  return reinterpret_cast<T*>(host_.data() + at);
}

template <typename T>
size_t StagedBatch::Put(std::span<const T> values) {
  size_t offset = 0;
  T* const to = Reserve<T>(values.size(), &offset);
  std::copy(values.begin(), values.end(), to);
  return offset;
}

absl::Status StagedBatch::Check(const Batch& batch) const {
  const auto tokens = static_cast<size_t>(batch.tokens);
  if (batch.tokens < 1 || batch.tokens > options_.max_tokens || batch.positions.size() != tokens ||
      batch.slots.size() != tokens || (!batch.ids.empty() && batch.ids.size() != tokens) ||
      batch.sequences.size() > tokens || batch.sample_rows.size() > static_cast<size_t>(options_.max_samples)) {
    return absl::InvalidArgumentError(absl::StrCat("a batch of ", batch.tokens, " tokens and ",
                                                   batch.sample_rows.size(), " samples, at most ", options_.max_tokens,
                                                   " and ", options_.max_samples, " fit"));
  }
  return absl::OkStatus();
}

absl::Status StagedBatch::Stage(const Batch& batch) {
  SHOAL_RETURN_IF_ERROR(Check(batch));
  tokens_ = batch.tokens;
  samples_ = static_cast<int>(batch.sample_rows.size());
  checksum_ = batch.checksum;
  host_.clear();
  ids_ = Put(batch.ids);
  slots_ = Put(batch.slots);
  sample_rows_ = Put(batch.sample_rows);
  if (device_->is_host()) {
    const size_t values = batch.positions.size() * static_cast<size_t>(rope_.width());
    Reserve<float>(values, &cos_);
    float* const sin = Reserve<float>(values, &sin_);  // may have moved the first
    rope_.Fill(batch.positions, reinterpret_cast<float*>(host_.data() + (cos_ - begin_)), sin);
  } else {
    angles_ = Put(batch.positions);
  }
  PutSequences(batch);
  if (begin_ + host_.size() > memory_.size()) {
    return absl::InvalidArgumentError("the block tables of a batch are longer than the longest contexts");
  }
  return device_->Upload(memory_.data() + begin_, host_.data(), host_.size());
}

// An op on a host takes its time: its rows are cut so that there is progress between two calls.
void StagedBatch::PutSequences(const Batch& batch) {
  int context = 0;
  for (const ops::AttentionSequence& s : batch.sequences) context = std::max(context, s.position + s.row_count);
  const int step = !device_->is_host() ? tokens_ : context > kLongContext ? kLongContextRows : kRowsPerCall;
  parts_.clear();
  cut_.clear();
  for (int begin = 0; begin < tokens_; begin += step) {
    const int first = static_cast<int>(cut_.size());
    for (const ops::AttentionSequence& s : batch.sequences) {
      const int from = std::max(begin, s.row_begin), to = std::min(begin + step, s.row_begin + s.row_count);
      if (from < to) cut_.push_back({s.block_table, from, to - from, s.position + from - s.row_begin});
    }
    parts_.push_back({first, static_cast<int>(cut_.size()) - first});
  }
  if (!device_->is_host()) {  // where the tables are has to be an address there
    for (ops::AttentionSequence& s : cut_) {
      const int blocks = (s.position + s.row_count + block_size_ - 1) / block_size_;
      const size_t offset = Put(std::span<const int32_t>(s.block_table, static_cast<size_t>(blocks)));
      s.block_table = At<int32_t>(offset);
    }
  }
  sequences_ = Put(std::span<const ops::AttentionSequence>(cut_));
}

}  // namespace shoal::graph
