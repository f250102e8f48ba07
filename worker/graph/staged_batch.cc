// Tested by: tests/graph/staged_batch_test.cc
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
constexpr int64_t kPieces = 16;            // of a batch, each with padding before it
constexpr size_t kTableChunk = 16 * 1024;  // entries of block tables in one copy

int64_t AngleBytes(const BatchShape& s, int64_t rows) {
  const int64_t dims = int64_t{s.rope.dim} + (s.other_rope.has_value() ? s.other_rope->dim : 0);
  return rows * dims * static_cast<int64_t>(sizeof(float));
}

int64_t TableWidth(const BatchShape& s) { return (s.options.max_context + s.block_size - 1) / s.block_size; }

// Sources, slots, positions, sequences (each has a row), what is there of them to be pooled, and of a sample.
int64_t BatchBytes(const BatchShape& s) {
  const int64_t pooled = s.pools ? 2 * sizeof(int32_t) : 0;
  const int64_t token = sizeof(int32_t) + sizeof(int64_t) + sizeof(int32_t) + sizeof(ops::AttentionSequence) + pooled;
  const int64_t sample = sizeof(int32_t) + sizeof(ops::SampleRow);
  return s.options.max_tokens * token + std::max(s.options.max_samples, s.options.max_tokens) * sample +
         kPieces * kPieceAlignment;
}

ops::AttentionPlanShape ShapeOf(const BatchShape& s, int threads, int tokens) {
  return {.threads = threads,
          .max_tokens = tokens,
          .max_sequences = std::min(tokens, s.options.max_samples),
          .max_context = s.options.max_context,
          .q_to_kv = s.q_to_kv.data(),
          .q_heads = static_cast<int>(s.q_to_kv.size()),
          .kv_heads = s.kv_heads,
          .head_dim = s.head_dim,
          .max_rows = 0,
          .causal = s.causal};
}

}  // namespace

int64_t StagedBatch::Bytes(bool is_host, const ops::OpTable& table, int threads, const BatchShape& s) {
  if (is_host) return BatchBytes(s) + AngleBytes(s, s.options.max_tokens);
  const int64_t tables = s.options.max_samples * TableWidth(s) * static_cast<int64_t>(sizeof(int32_t));
  const int64_t plan =
      table.attention_plan_bytes == nullptr ? 0 : table.attention_plan_bytes(ShapeOf(s, threads, s.options.max_tokens));
  const auto chunk = static_cast<int64_t>(2 * kTableChunk * sizeof(int32_t));
  return AngleBytes(s, s.options.max_context) + tables + BatchBytes(s) + plan + chunk + kPieceAlignment;
}

StagedBatch::StagedBatch(device::Device* device, BatchShape shape)
    : device_(device), shape_(std::move(shape)), table_width_(TableWidth(shape_)) {
  ropes_.emplace_back(shape_.rope, shape_.options.max_context);
  if (shape_.other_rope.has_value()) ropes_.emplace_back(*shape_.other_rope, shape_.options.max_context);
}

absl::StatusOr<StagedBatch> StagedBatch::Create(device::Device* device, BatchShape shape) {
  StagedBatch staged(device, std::move(shape));
  const int64_t bytes = Bytes(device->is_host(), device->table(), device->stream().threads(), staged.shape_);
  SHOAL_ASSIGN_OR_RETURN(staged.memory_, device->Allocate(static_cast<size_t>(bytes)));
  if (device->is_host()) return staged;
  SHOAL_RETURN_IF_ERROR(staged.UploadAngles());
  staged.rows_.resize(staged.shape_.options.max_samples);
  staged.tables_ = reinterpret_cast<int32_t*>(staged.memory_.data() + staged.begin_);
  staged.begin_ += staged.rows_.size() * static_cast<size_t>(staged.table_width_) * sizeof(int32_t);
  staged.begin_ = (staged.begin_ + kPieceAlignment - 1) / kPieceAlignment * kPieceAlignment;
  return staged;
}

absl::Status StagedBatch::UploadAngles() {
  std::vector<int32_t> positions(shape_.options.max_context);
  std::iota(positions.begin(), positions.end(), 0);
  std::vector<float> angles;
  for (size_t i = 0; i < ropes_.size(); ++i) {
    const size_t values = positions.size() * static_cast<size_t>(ropes_[i].width()), first = angles.size();
    angles.resize(first + 2 * values);
    ropes_[i].Fill(positions, &angles[first], &angles[first] + values);
    at_.turns[i] = {first * sizeof(float), (first + values) * sizeof(float)};
  }
  begin_ = angles.size() * sizeof(float);
  return angles.empty() ? absl::OkStatus() : device_->Upload(memory_.data(), angles.data(), begin_);
}

// Of a host: those of the batch's own positions.
void StagedBatch::PutAngles(std::span<const int32_t> positions) {
  for (size_t i = 0; i < ropes_.size(); ++i) {
    const size_t values = positions.size() * static_cast<size_t>(ropes_[i].width());
    Turn& turn = at_.turns[i];
    Reserve<float>(values, &turn.cos);
    float* const sin = Reserve<float>(values, &turn.sin);  // may have moved the first
    ropes_[i].Fill(positions, reinterpret_cast<float*>(host_.data() + (turn.cos - begin_)), sin);
  }
}

void StagedBatch::PutPooled(const Batch& batch) {
  pooled_ = static_cast<int>(batch.sequences.size());
  int32_t* const first = Reserve<int32_t>(batch.sequences.size(), &at_.first_rows);
  for (int i = 0; i < pooled_; ++i) first[i] = batch.sequences[i].row_begin;
  int32_t* const counts = Reserve<int32_t>(batch.sequences.size(), &at_.row_counts);
  for (int i = 0; i < pooled_; ++i) counts[i] = batch.sequences[i].row_count;
}

template <typename T>
T* StagedBatch::Reserve(size_t count, size_t* offset) {
  const size_t at = (host_.size() + kPieceAlignment - 1) / kPieceAlignment * kPieceAlignment;
  host_.resize(at + count * sizeof(T));
  *offset = begin_ + at;
  return reinterpret_cast<T*>(host_.data() + at);
}

template <typename T>
void StagedBatch::Put(std::span<const T> values, size_t count, T padding, size_t* offset) {
  T* const to = Reserve<T>(count, offset);
  std::fill(std::copy(values.begin(), values.end(), to), to + count, padding);
}

absl::Status StagedBatch::Check(const Batch& b) const {
  const auto tokens = static_cast<size_t>(b.tokens);
  const DecoderOptions& o = shape_.options;
  const bool fits = b.tokens >= 1 && b.tokens <= o.max_tokens && b.positions.size() == tokens &&
                    b.slots.size() == tokens && (b.sources.empty() || b.sources.size() == tokens) &&
                    b.sequences.size() <= tokens && b.sample_rows.size() <= static_cast<size_t>(o.max_samples) &&
                    b.sampling.size() == b.sample_rows.size();
  if (!fits) {
    return absl::InvalidArgumentError(absl::StrCat("a batch of ", b.tokens, " tokens and ", b.sample_rows.size(),
                                                   " samples, at most ", o.max_tokens, " and ", o.max_samples, " fit"));
  }
  const int largest = std::min(o.max_tokens, o.max_samples);
  if (b.bucket != 0 &&
      (b.bucket < b.tokens || b.bucket > largest || b.sample_rows.size() != tokens || b.sequences.size() != tokens)) {
    return absl::InvalidArgumentError(absl::StrCat("a bucket of ", b.bucket, " rows for a batch of ", b.tokens));
  }
  if (device_->is_host()) return absl::OkStatus();
  const bool placed = b.places.size() == b.sequences.size() &&
                      std::all_of(b.places.begin(), b.places.end(), [&](const SequencePlace& p) {
                        return p.index >= 0 && p.index < static_cast<int>(rows_.size());
                      });
  return placed ? absl::OkStatus() : absl::InvalidArgumentError("a sequence of the batch has no place");
}

absl::Status StagedBatch::Stage(const Batch& batch) {
  SHOAL_RETURN_IF_ERROR(Check(batch));
  tokens_ = batch.bucket != 0 ? batch.bucket : batch.tokens;
  samples_ = batch.bucket != 0 ? batch.bucket : static_cast<int>(batch.sample_rows.size());
  checksum_ = batch.checksum;
  recordable_ = batch.bucket != 0;
  host_.clear();
  most_rows_ = 1;
  for (const ops::AttentionSequence& s : batch.sequences) most_rows_ = std::max(most_rows_, s.row_count);
  const auto tokens = static_cast<size_t>(tokens_), samples = static_cast<size_t>(samples_);
  Put<int32_t>(batch.sources, batch.sources.empty() ? 0 : tokens, 0, &at_.sources);
  Put<int64_t>(batch.slots, tokens, -1, &at_.slots);
  Put<int32_t>(batch.sample_rows, samples, 0, &at_.sample_rows);
  Put<ops::SampleRow>(batch.sampling, samples, {.top_k = -1}, &at_.sampling);
  if (device_->is_host()) PutAngles(batch.positions);
  if (!device_->is_host() || shape_.positions) Put<int32_t>(batch.positions, tokens, 0, &at_.positions);
  if (shape_.pools) PutPooled(batch);
  CutSequences(batch);
  Put<ops::AttentionSequence>(cut_, batch.bucket != 0 ? tokens : cut_.size(), {}, &at_.sequences);
  if (device_->is_host()) return device_->Upload(memory_.data(), host_.data(), host_.size());
  PutPlan();
  SHOAL_RETURN_IF_ERROR(PutTables(batch));
  SHOAL_RETURN_IF_ERROR(device_->Upload(memory_.data() + begin_, host_.data(), host_.size()));
  return Scatter(table_values_.size());
}

// An op on a host takes its time: its rows are cut so that there is progress between two calls. Not where a row sees
// those behind it: they are in one call with it, and contexts are short.
void StagedBatch::CutSequences(const Batch& batch) {
  int context = 0;
  for (const ops::AttentionSequence& s : batch.sequences) context = std::max(context, s.position + s.row_count);
  const int step = !device_->is_host() || !shape_.causal ? tokens_
                   : context > kLongContext              ? kLongContextRows
                                                         : kRowsPerCall;
  parts_.clear();
  cut_.clear();
  for (int begin = 0; begin < batch.tokens; begin += step) {
    const int first = static_cast<int>(cut_.size());
    for (const ops::AttentionSequence& s : batch.sequences) {
      const int from = std::max(begin, s.row_begin), to = std::min(begin + step, s.row_begin + s.row_count);
      if (from < to) cut_.push_back({s.block_table, from, to - from, s.position + from - s.row_begin});
    }
    parts_.push_back({first, static_cast<int>(cut_.size()) - first});
  }
  if (device_->is_host()) return;
  for (size_t i = 0; i < cut_.size(); ++i) cut_[i].block_table = tables_ + batch.places[i].index * table_width_;
}

ops::AttentionPlanShape StagedBatch::plan_shape() const {
  ops::AttentionPlanShape shape = ShapeOf(shape_, device_->stream().threads(), tokens_);
  shape.max_rows = most_rows_;
  return shape;
}

void StagedBatch::PutPlan() {
  const ops::OpTable& table = device_->table();
  has_plan_ = table.attention_plan_bytes != nullptr;
  if (!has_plan_) return;
  const ops::AttentionPlanShape shape = plan_shape();
  std::byte* const to = Reserve<std::byte>(static_cast<size_t>(table.attention_plan_bytes(shape)), &at_.plan);
  table.attention_plan(shape, cut_.data(), static_cast<int>(cut_.size()), to);
}

// What tables have gained since they were last looked at. A chunk at the most is left for the batch's own copy.
absl::Status StagedBatch::PutTables(const Batch& batch) {
  table_values_.clear();
  table_places_.clear();
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const ops::AttentionSequence& s = batch.sequences[i];
    const SequencePlace& place = batch.places[i];
    TableRow& row = rows_[place.index];
    if (row.owner != place.owner) row = {place.owner, 0};
    const auto blocks = static_cast<size_t>((s.position + s.row_count + shape_.block_size - 1) / shape_.block_size);
    for (; row.known < blocks; ++row.known) {
      if (table_values_.size() == kTableChunk) SHOAL_RETURN_IF_ERROR(UploadChunk());
      table_values_.push_back(s.block_table[row.known]);
      table_places_.push_back(static_cast<int32_t>(place.index * table_width_ + static_cast<int64_t>(row.known)));
    }
  }
  Put<int32_t>(table_values_, table_values_.size(), 0, &at_.table_values);
  Put<int32_t>(table_places_, table_places_.size(), 0, &at_.table_places);
  return absl::OkStatus();
}

// By way of where the batch will lie: that comes later.
absl::Status StagedBatch::UploadChunk() {
  at_.table_values = begin_;
  at_.table_places = begin_ + kTableChunk * sizeof(int32_t);
  constexpr size_t kBytes = kTableChunk * sizeof(int32_t);
  SHOAL_RETURN_IF_ERROR(device_->Upload(memory_.data() + at_.table_values, table_values_.data(), kBytes));
  SHOAL_RETURN_IF_ERROR(device_->Upload(memory_.data() + at_.table_places, table_places_.data(), kBytes));
  SHOAL_RETURN_IF_ERROR(Scatter(kTableChunk));
  table_values_.clear();
  table_places_.clear();
  return absl::OkStatus();
}

absl::Status StagedBatch::Scatter(size_t count) {
  if (count == 0) return absl::OkStatus();
  return device_->table().scatter_ids(device_->stream(), {.tokens = At<int32_t>(at_.table_values),
                                                          .places = At<int32_t>(at_.table_places),
                                                          .last = tables_,
                                                          .count = static_cast<int>(count)});
}

}  // namespace shoal::graph
