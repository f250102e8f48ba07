#include "common/model/quantise.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"
#include "common/model/file.h"
#include "common/model/tensor_table.h"

namespace shoal::model {
namespace {

// Values that are read at once: long enough for a large read, short enough for a cache.
constexpr int64_t kChunkBytes = 1 << 20;

float ScaleOf(DType type, std::span<const float> row) {
  float largest = 0;
  for (const float w : row) largest = std::max(largest, std::abs(w));
  const float scale = largest / (type == DType::kF8E4M3 ? 448.0f : 127.0f);
  return scale > 0 ? scale : 1.0f;  // zeros, or so small that the division gave 0
}

uint8_t CodeOf(DType type, float w, float scale) {
  const float scaled = w / scale;
  if (type == DType::kF8E4M3) return F32ToF8E4M3(scaled);
  return static_cast<uint8_t>(static_cast<int>(std::clamp(std::nearbyint(scaled), -127.0f, 127.0f)));
}

// One row, group by group.
std::vector<BlockI4> Int4Row(std::span<const float> row) {
  std::vector<BlockI4> blocks(row.size() / kQuantBlock);
  for (size_t begin = 0; begin < row.size(); begin += kInt4Group) {
    const auto group = row.subspan(begin, std::min<size_t>(kInt4Group, row.size() - begin));
    float low = 0, high = 0;
    bool finite = true;
    for (const float w : group) {
      low = std::min(low, w);
      high = std::max(high, w);
      finite = finite && std::isfinite(w);
    }
    const uint16_t stored = F32ToF16(finite ? (high - low) / 15.0f : std::numeric_limits<float>::quiet_NaN());
    const float d = F16ToF32(stored);
    const bool scaled = d > 0 && std::isfinite(d);  // else zeros, or nothing that is a number
    const auto level = [&](float x) { return static_cast<int>(std::nearbyint(std::clamp(x, 0.0f, 15.0f))); };
    const int z = scaled ? level(-low / d) : 0;
    const auto code = [&](float w) { return scaled ? level(std::nearbyint(w / d) + static_cast<float>(z)) : 0; };
    for (size_t b = 0; b < group.size() / kQuantBlock; ++b) {
      const float* const w = group.data() + b * kQuantBlock;
      BlockI4& block = blocks[begin / kQuantBlock + b];
      block = {.d = stored, .z = static_cast<uint16_t>(z), .q = {}};
      for (int i = 0; i < 16; ++i) block.q[i] = static_cast<uint8_t>(code(w[i]) | code(w[i + 16]) << 4);
    }
  }
  return blocks;
}

class QuantisedCheckpoint final : public Checkpoint {
 public:
  QuantisedCheckpoint(std::shared_ptr<const Checkpoint> like, const ModelConfig& config, DType type)
      : like_(std::move(like)), type_(type) {
    const TensorIndex index(*like_);
    absl::flat_hash_set<const TensorEntry*> matrices;
    for (const TensorSpec& spec : TensorTable(config)) {
      const TensorEntry* stored = index.Find(spec.name);
      if (stored == nullptr || !spec.is_layer_matrix() || IsQuantised(stored->dtype) || IsByte(stored->dtype)) continue;
      if (stored->shape.size() == 2) matrices.insert(stored);
    }
    for (const TensorEntry& t : like_->tensors()) {
      if (!matrices.contains(&t)) {
        Add(t, Source{&t, What::kAsStored});
        continue;
      }
      const auto bytes = static_cast<int64_t>(RowBytes(type, t.shape[1])) * t.shape[0];
      Add({t.name, type, t.shape, bytes}, Source{&t, What::kCodes});
      if (type == DType::kI4) continue;
      const auto scale_bytes = static_cast<int64_t>(RowBytes(DType::kF32, t.shape[0]));
      Add({t.name + "_scale", DType::kF32, {t.shape[0], 1}, scale_bytes}, Source{&t, What::kScales});
    }
  }

  std::span<const TensorEntry> tensors() const override { return tensors_; }
  int64_t bytes_read() const override { return bytes_read_.load(std::memory_order_relaxed); }
  int64_t file_bytes() const override { return like_->file_bytes(); }
  uint64_t header_digest() const override { return Fnv1a(Info(type_).name, like_->header_digest()); }

  absl::Status Read(const TensorEntry& tensor, int64_t offset, std::span<std::byte> dst) const override {
    SHOAL_RETURN_IF_ERROR(CheckRange(tensor, offset, dst.size()));
    const Source& source = sources_[static_cast<size_t>(&tensor - tensors_.data())];
    if (source.what == What::kAsStored) {
      SHOAL_RETURN_IF_ERROR(like_->Read(*source.tensor, offset, dst));
    } else {
      SHOAL_RETURN_IF_ERROR(Make(source, offset, dst));
    }
    bytes_read_.fetch_add(static_cast<int64_t>(dst.size()), std::memory_order_relaxed);
    return absl::OkStatus();
  }

  // Columns of codes are made from whole rows, each read once.
  absl::Status ReadBlock(const TensorEntry& tensor, const TensorBlock& b, std::span<std::byte> dst) const override {
    const Source& source = sources_[static_cast<size_t>(&tensor - tensors_.data())];
    if (source.what == What::kScales) return Checkpoint::ReadBlock(tensor, b, dst);
    if (source.what == What::kAsStored) {
      SHOAL_RETURN_IF_ERROR(like_->ReadBlock(*source.tensor, b, dst));
    } else {
      const auto from = static_cast<int64_t>(RowBytes(type_, b.column));
      const auto part = static_cast<int64_t>(RowBytes(type_, b.columns));
      std::vector<std::byte> row(static_cast<size_t>(RowBytesOf(source)));
      SHOAL_RETURN_IF_ERROR(ForRows(source, b.row, b.row + b.rows, [&](int64_t r, std::span<const float> values) {
        SHOAL_RETURN_IF_ERROR(MakeRow(source, values, from, from + part, row));
        std::copy_n(row.begin() + from, part, dst.begin() + (r - b.row) * part);
        return absl::OkStatus();
      }));
    }
    bytes_read_.fetch_add(static_cast<int64_t>(dst.size()), std::memory_order_relaxed);
    return absl::OkStatus();
  }

 private:
  enum class What : uint8_t { kAsStored, kCodes, kScales };
  struct Source {
    const TensorEntry* tensor;  // of like_
    What what;
  };

  void Add(TensorEntry entry, Source source) {
    tensors_.push_back(std::move(entry));
    sources_.push_back(source);
  }

  // Of the codes or the scales: what a row of the stored matrix becomes has so many bytes.
  int64_t RowBytesOf(const Source& source) const {
    const bool codes = source.what == What::kCodes;
    return static_cast<int64_t>(RowBytes(codes ? type_ : DType::kF32, codes ? source.tensor->shape[1] : 1));
  }

  // Bytes [offset, offset + dst.size()) of the codes or the scales, from the rows that they come of.
  absl::Status Make(const Source& source, int64_t offset, std::span<std::byte> dst) const {
    const int64_t made = RowBytesOf(source), end = offset + static_cast<int64_t>(dst.size());
    std::vector<std::byte> row(static_cast<size_t>(made));
    return ForRows(source, offset / made, (end + made - 1) / made, [&](int64_t r, std::span<const float> values) {
      const int64_t from = std::max(offset, r * made), to = std::min(end, (r + 1) * made);
      SHOAL_RETURN_IF_ERROR(MakeRow(source, values, from - r * made, to - r * made, row));
      std::copy(row.begin() + (from - r * made), row.begin() + (to - r * made), dst.begin() + (from - offset));
      return absl::OkStatus();
    });
  }

  // fn(row, its values) for rows [first, last) of the stored matrix, of which some are read at a time.
  template <typename F>
  absl::Status ForRows(const Source& source, int64_t first, int64_t last, F fn) const {
    const TensorEntry& t = *source.tensor;
    const int64_t columns = t.shape[1], row_bytes = static_cast<int64_t>(RowBytes(t.dtype, columns));
    const int64_t at_once = std::max<int64_t>(1, kChunkBytes / row_bytes);
    std::vector<std::byte> stored;
    std::vector<float> values;
    for (; first < last; first += at_once) {
      const int64_t rows = std::min(at_once, last - first);
      stored.resize(static_cast<size_t>(rows * row_bytes));
      values.resize(static_cast<size_t>(rows * columns));
      SHOAL_RETURN_IF_ERROR(like_->ReadBlock(t, {.row = first, .rows = rows, .column = 0, .columns = columns}, stored));
      DequantiseRow(t.dtype, stored.data(), rows * columns, values.data());
      for (int64_t r = 0; r < rows; ++r) {
        SHOAL_RETURN_IF_ERROR(
            fn(first + r, std::span(values).subspan(static_cast<size_t>(r * columns), static_cast<size_t>(columns))));
      }
    }
    return absl::OkStatus();
  }

  // Bytes [from, to) of what `row` becomes.
  absl::Status MakeRow(const Source& source, std::span<const float> row, int64_t from, int64_t to,
                       std::span<std::byte> out) const {
    if (type_ == DType::kI4) {
      const std::vector<BlockI4> blocks = Int4Row(row);
      std::memcpy(out.data() + from, reinterpret_cast<const std::byte*>(blocks.data()) + from,
                  static_cast<size_t>(to - from));
      return absl::OkStatus();
    }
    const float scale = ScaleOf(type_, row);
    if (type_ == DType::kI8 && !std::all_of(row.begin(), row.end(), [](float w) { return std::isfinite(w); })) {
      return absl::InvalidArgumentError(
          absl::StrCat(source.tensor->name, " holds what is not a number: int8 cannot say so"));
    }
    if (source.what == What::kScales) {
      std::memcpy(out.data(), &scale, sizeof(scale));
      return absl::OkStatus();
    }
    for (int64_t i = from; i < to; ++i) {
      out[static_cast<size_t>(i)] = std::byte{CodeOf(type_, row[static_cast<size_t>(i)], scale)};
    }
    return absl::OkStatus();
  }

  const std::shared_ptr<const Checkpoint> like_;
  const DType type_;
  std::vector<TensorEntry> tensors_;
  std::vector<Source> sources_;  // of tensors_
  mutable std::atomic<int64_t> bytes_read_{0};
};

}  // namespace

std::shared_ptr<const Checkpoint> QuantiseAtLoad(std::shared_ptr<const Checkpoint> like, const ModelConfig& config,
                                                 DType type) {
  SHOAL_CHECK(IsByte(type) || type == DType::kI4);
  return std::make_shared<QuantisedCheckpoint>(std::move(like), config, type);
}

absl::StatusOr<std::shared_ptr<const Checkpoint>> QuantiseAs(std::string_view name,
                                                             std::shared_ptr<const Checkpoint> like,
                                                             const ModelConfig& config) {
  if (name == "auto") return like;
  const std::optional<DType> type = DTypeFromName(name);
  if (type == DType::kI4) {
    for (const TensorSpec& spec : TensorTable(config)) {
      if (!spec.is_layer_matrix() || spec.shape[1] % kQuantBlock == 0) continue;
      return absl::InvalidArgumentError(absl::StrCat("quantization int4: ", spec.name, " has rows of ", spec.shape[1],
                                                     ", which are no whole blocks of 32"));
    }
  }
  if (type.has_value() && (IsByte(*type) || type == DType::kI4)) return QuantiseAtLoad(std::move(like), config, *type);
  return absl::InvalidArgumentError(
      absl::StrCat("quantization ", std::string(name), ": there are auto, fp8, int8 and int4"));
}

}  // namespace shoal::model
