#include "common/model/arrange.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace shoal::model {
namespace {

constexpr int64_t kChunkBytes = 1 << 20;  // that a transposed read holds at once

using Shape = std::vector<int64_t>;

std::string ShapeText(const Shape& shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

// One "*" at most, which stands for anything.
bool Matches(std::string_view pattern, std::string_view name) {
  if (pattern.empty()) return name.empty();
  if (pattern[0] != '*') return !name.empty() && pattern[0] == name[0] && Matches(pattern.substr(1), name.substr(1));
  for (size_t skip = 0; skip <= name.size(); ++skip) {
    if (Matches(pattern.substr(1), name.substr(skip))) return true;
  }
  return false;
}

// The matrix or norm whose bias this is: the role before it.
std::optional<Role> OwnerOfBias(Role role) {
  switch (role) {
    case Role::kEmbeddingNormBias:
    case Role::kAttnNormBias:
    case Role::kQBias:
    case Role::kKBias:
    case Role::kVBias:
    case Role::kOBias:
    case Role::kAttnPostNormBias:
    case Role::kFfnNormBias:
    case Role::kGateBias:
    case Role::kUpBias:
    case Role::kDownBias:
    case Role::kFfnPostNormBias:
    case Role::kFinalNormBias:
      return static_cast<Role>(static_cast<uint8_t>(role) - 1);
    default:
      return std::nullopt;
  }
}

// Rows [begin, begin + those of the tensor) of `whole`.
struct Rows {
  int64_t begin, whole;
};
Rows RowsOf(const ModelConfig& c, const TensorSpec& spec, Piece piece) {
  const int64_t q = int64_t{c.heads} * c.head_dim, kv = int64_t{c.kv_heads} * c.head_dim, own = spec.shape[0];
  switch (piece) {
    case Piece::kQOfQkv:
      return {0, q + 2 * kv};
    case Piece::kKOfQkv:
      return {q, q + 2 * kv};
    case Piece::kVOfQkv:
      return {q + kv, q + 2 * kv};
    case Piece::kGateOfGateUp:
      return {0, 2 * own};
    case Piece::kUpOfGateUp:
      return {own, 2 * own};
    case Piece::kFirstRow:
    case Piece::kWhole:
      break;
  }
  return {0, own};
}

template <typename T>
void CopyColumns(const std::byte* from, int64_t stride, int64_t count, int64_t rows, std::byte* to, int64_t columns) {
  constexpr int64_t kSize = sizeof(T);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(to + (r * columns + i) * kSize, from + (i * stride + r) * kSize, sizeof(T));
    }
  }
}

class ArrangedCheckpoint final : public Checkpoint {
 public:
  explicit ArrangedCheckpoint(std::shared_ptr<const Checkpoint> stored) : stored_(std::move(stored)) {}

  // Bytes of `stored` from `offset`.
  void Add(TensorEntry entry, const TensorEntry* stored, int64_t offset) {
    entry.bytes = BytesOf(entry);
    tensors_.push_back(std::move(entry));
    sources_.push_back({stored, offset, -1});
  }
  // Columns of `stored` from `column`, each a row.
  void AddTransposed(TensorEntry entry, const TensorEntry* stored, int64_t column) {
    entry.bytes = BytesOf(entry);
    tensors_.push_back(std::move(entry));
    sources_.push_back({stored, 0, column});
  }

  std::span<const TensorEntry> tensors() const override { return tensors_; }
  int64_t bytes_read() const override { return stored_->bytes_read(); }
  int64_t file_bytes() const override { return stored_->file_bytes(); }
  uint64_t header_digest() const override { return stored_->header_digest(); }

  absl::Status Read(const TensorEntry& tensor, int64_t offset, std::span<std::byte> dst) const override {
    SHOAL_RETURN_IF_ERROR(CheckRange(tensor, offset, dst.size()));
    const Source& source = SourceOf(tensor);
    if (source.column < 0) return stored_->Read(*source.stored, source.offset + offset, dst);
    const int64_t columns = tensor.shape[1], size = BytesOf({.name = "", .dtype = tensor.dtype, .shape = {1}});
    const int64_t row_bytes = columns * size;
    while (!dst.empty()) {
      const int64_t row = offset / row_bytes, within = offset % row_bytes;
      const auto left = static_cast<int64_t>(dst.size());
      int64_t taken = left / row_bytes * row_bytes;
      if (within == 0 && taken > 0) {
        const TensorBlock block = {.row = row, .rows = taken / row_bytes, .column = 0, .columns = columns};
        SHOAL_RETURN_IF_ERROR(ReadTransposed(source, block, size, dst.first(static_cast<size_t>(taken))));
      } else {  // a part of a row
        taken = std::min(left, row_bytes - within);
        const int64_t first = within / size, last = (within + taken + size - 1) / size;
        std::vector<std::byte> part(static_cast<size_t>((last - first) * size));
        SHOAL_RETURN_IF_ERROR(ReadTransposed(source, {row, 1, first, last - first}, size, part));
        std::memcpy(dst.data(), part.data() + (within - first * size), static_cast<size_t>(taken));
      }
      offset += taken;
      dst = dst.subspan(static_cast<size_t>(taken));
    }
    return absl::OkStatus();
  }

  absl::Status ReadBlock(const TensorEntry& tensor, const TensorBlock& block, std::span<std::byte> dst) const override {
    const Source& source = SourceOf(tensor);
    if (source.column < 0) return Checkpoint::ReadBlock(tensor, block, dst);
    SHOAL_RETURN_IF_ERROR(CheckRange(tensor, 0, dst.size()));
    return ReadTransposed(source, block, BytesOf({.name = "", .dtype = tensor.dtype, .shape = {1}}), dst);
  }

 private:
  struct Source {
    const TensorEntry* stored;
    int64_t offset;
    int64_t column;  // -1: not transposed
  };

  static int64_t BytesOf(const TensorEntry& entry) {
    int64_t elements = 1;
    for (const int64_t n : entry.shape) elements *= n;
    return static_cast<int64_t>(RowBytes(entry.dtype, elements));
  }
  const Source& SourceOf(const TensorEntry& tensor) const {
    const auto at = static_cast<size_t>(&tensor - tensors_.data());
    SHOAL_CHECK(at < sources_.size());
    return sources_[at];
  }

  // `size`: of an element. Stored rows are read whole when most of each is wanted, many at once; else the wanted part
  // of each.
  absl::Status ReadTransposed(const Source& source, const TensorBlock& b, int64_t size,
                              std::span<std::byte> dst) const {
    const int64_t width = source.stored->shape[1], first = source.column + b.row;
    const bool whole = 2 * b.rows >= width;
    const int64_t span = whole ? width : b.rows,
                  at_once = whole ? std::max<int64_t>(1, kChunkBytes / (width * size)) : 1;
    std::vector<std::byte> buffer(static_cast<size_t>(std::min(at_once, b.columns) * span * size));
    for (int64_t c = 0; c < b.columns; c += at_once) {
      const int64_t count = std::min(at_once, b.columns - c);
      const auto part = std::span(buffer).first(static_cast<size_t>(count * span * size));
      SHOAL_RETURN_IF_ERROR(stored_->Read(*source.stored, ((b.column + c) * width + (whole ? 0 : first)) * size, part));
      const std::byte* from = part.data() + (whole ? first * size : 0);
      std::byte* to = dst.data() + c * size;
      if (size == 1) CopyColumns<uint8_t>(from, span, count, b.rows, to, b.columns);
      if (size == 2) CopyColumns<uint16_t>(from, span, count, b.rows, to, b.columns);
      if (size == 4) CopyColumns<uint32_t>(from, span, count, b.rows, to, b.columns);
    }
    return absl::OkStatus();
  }

  const std::shared_ptr<const Checkpoint> stored_;
  std::vector<TensorEntry> tensors_;
  std::vector<Source> sources_;  // of tensors_
};

class Arranger {
 public:
  Arranger(const ModelConfig& config, const StoredNames& names, std::shared_ptr<const Checkpoint> stored)
      : c_(config),
        names_(names),
        stored_(stored),
        index_(*stored),
        out_(std::make_shared<ArrangedCheckpoint>(stored)) {
    for (const StoredName& name : names_.names) of_role_[static_cast<size_t>(name.role)].push_back(&name);
  }

  absl::StatusOr<std::shared_ptr<const Checkpoint>> Run() {
    for (const TensorSpec& spec : TensorTable(c_)) Place(spec);
    if (!c_.has_head() || c_.tied_embeddings) UseHead();
    for (const TensorEntry& entry : stored_->tensors()) {
      if (used_.contains(&entry) || names_.IsUnused(entry.name) || IsInputScale(entry.name)) continue;
      problems_.push_back(absl::StrCat(entry.name, " is not known for this architecture"));
    }
    if (problems_.empty()) return std::shared_ptr<const Checkpoint>(std::move(out_));
    return absl::InvalidArgumentError(absl::StrCat(problems_.size(), " problems with the tensors of this model:\n  ",
                                                   absl::StrJoin(problems_, "\n  ")));
  }

 private:
  struct Found {
    const TensorEntry* entry = nullptr;
    const StoredName* how = nullptr;
  };

  static std::string NameOf(const char* prefix, const StoredName& row, const TensorSpec& spec) {
    std::string name = absl::StrCat(row.role == Role::kHead ? "" : prefix, row.name);
    if (spec.layer >= 0) name = absl::StrReplaceAll(name, {{"{L}", absl::StrCat(spec.layer)}});
    if (spec.expert >= 0) name = absl::StrReplaceAll(name, {{"{E}", absl::StrCat(spec.expert)}});
    if (OwnerOfBias(spec.role).has_value()) name = name.substr(0, name.rfind('.')) + ".bias";
    return name;
  }

  Found Find(const TensorSpec& spec) const {
    const Role owner = OwnerOfBias(spec.role).value_or(spec.role);
    for (const StoredName* row : of_role_[static_cast<size_t>(owner)]) {
      for (const char* prefix : names_.prefixes) {
        if (const TensorEntry* entry = index_.Find(NameOf(prefix, *row, spec)); entry != nullptr) return {entry, row};
      }
    }
    return {};
  }

  void Missing(const TensorSpec& spec) {
    std::vector<std::string> names;
    const Role owner = OwnerOfBias(spec.role).value_or(spec.role);
    for (const StoredName* row : of_role_[static_cast<size_t>(owner)]) {
      names.push_back(NameOf(names_.prefixes[0], *row, spec));
    }
    if (names.empty()) {
      problems_.push_back(absl::StrCat(spec.name, ": files of this architecture have no such tensor"));
    } else {
      problems_.push_back(absl::StrCat(absl::StrJoin(names, " or "), " (", spec.name, ") is missing"));
    }
  }

  void Place(const TensorSpec& spec) {
    const Found found = Find(spec);
    if (found.entry == nullptr) return Missing(spec);
    used_.insert(found.entry);
    const TensorEntry& entry = *found.entry;
    const Rows rows = RowsOf(c_, spec, found.how->piece);
    const bool transposed = found.how->transposed && !spec.is_vector();
    const bool stacked = spec.expert >= 0 && !absl::StrContains(found.how->name, "{E}");
    Shape whole = spec.shape;
    whole[0] = rows.whole;
    Shape wanted = whole;
    if (transposed) std::swap(wanted[0], wanted[1]);
    if (stacked) wanted.insert(wanted.begin(), c_.experts.count);
    if (found.how->piece == Piece::kFirstRow) wanted.insert(wanted.begin(), entry.shape.empty() ? 1 : entry.shape[0]);
    if (entry.shape != wanted) {
      problems_.push_back(
          absl::StrCat(entry.name, " has shape ", ShapeText(entry.shape), ", the config needs ", ShapeText(wanted)));
      return;
    }
    if (transposed && IsQuantised(entry.dtype)) {
      problems_.push_back(absl::StrCat(entry.name, " is of type ", std::string(Info(entry.dtype).name),
                                       ", whose blocks cannot be transposed"));
      return;
    }
    const TensorEntry named = {.name = spec.name, .dtype = entry.dtype, .shape = spec.shape};
    const TensorEntry* scale = spec.is_vector() ? nullptr : Scale(entry, stacked);
    const TensorEntry of_whole = {.name = entry.name, .dtype = entry.dtype, .shape = whole};
    const std::string_view scale_name = scale == nullptr ? std::string_view() : std::string_view(scale->name);
    std::vector<std::string> wrong = CheckType(spec, of_whole, scale, entry.name, scale_name);
    if (!wrong.empty()) {
      problems_.insert(problems_.end(), wrong.begin(), wrong.end());
      return;
    }
    const int64_t first = rows.begin + (stacked ? spec.expert * rows.whole : 0);
    if (transposed) {
      out_->AddTransposed(named, &entry, first);
    } else {
      const int64_t row = spec.is_vector() ? 1 : spec.shape.back();
      out_->Add(named, &entry, static_cast<int64_t>(RowBytes(entry.dtype, first * row)));
    }
    if (scale != nullptr) PlaceScale(spec, *scale, first);
  }

  // One for all rows, or those of the rows from `first`.
  void PlaceScale(const TensorSpec& spec, const TensorEntry& scale, int64_t first) {
    int64_t elements = 1;
    for (const int64_t n : scale.shape) elements *= n;
    TensorEntry named = {.name = spec.name + "_scale", .dtype = scale.dtype, .shape = scale.shape};
    if (elements > 1) named.shape[0] = spec.shape[0];
    out_->Add(std::move(named), &scale, elements > 1 ? static_cast<int64_t>(RowBytes(scale.dtype, first)) : 0);
  }

  const TensorEntry* Scale(const TensorEntry& matrix, bool stacked) {
    if (!IsByte(matrix.dtype)) return nullptr;
    if (const TensorEntry* blocks = index_.Find(matrix.name + "_scale_inv"); blocks != nullptr) {
      if (used_.insert(blocks).second) {
        problems_.push_back(absl::StrCat(blocks->name, " has scales of blocks ", ShapeText(blocks->shape),
                                         "; one scale for each row, or for all of a matrix, is supported"));
      }
    }
    const TensorEntry* scale = index_.Find(matrix.name + "_scale");
    if (scale == nullptr) return nullptr;
    if (!used_.insert(scale).second || !stacked) return scale;
    problems_.push_back(absl::StrCat(scale->name, ": scales of stacked experts are not supported"));
    return nullptr;
  }

  // The second copy of a tied table, or a head that nobody asks.
  void UseHead() {
    const TensorSpec head = {.role = Role::kHead, .layer = -1, .expert = -1, .name = "", .shape = {}, .shard = {}};
    if (const Found found = Find(head); found.entry != nullptr) used_.insert(found.entry);
  }

  // How a static scheme would quantise the input of a matrix. Activations are not quantised here, which is more exact.
  bool IsInputScale(const std::string& name) const {
    constexpr absl::string_view kEnd = ".input_scale";
    if (!absl::EndsWith(name, kEnd)) return false;
    const TensorEntry* matrix = index_.Find(absl::StrCat(name.substr(0, name.size() - kEnd.size()), ".weight"));
    return matrix != nullptr && IsByte(matrix->dtype);
  }

  const ModelConfig& c_;
  const StoredNames& names_;
  const std::shared_ptr<const Checkpoint> stored_;
  const TensorIndex index_;
  std::array<std::vector<const StoredName*>, kRoles> of_role_;
  std::shared_ptr<ArrangedCheckpoint> out_;
  absl::flat_hash_set<const TensorEntry*> used_;
  std::vector<std::string> problems_;
};

}  // namespace

bool StoredNames::IsUnused(std::string_view name) const {
  return std::any_of(unused.begin(), unused.end(), [&](const char* pattern) { return Matches(pattern, name); });
}

absl::StatusOr<std::shared_ptr<const Checkpoint>> Arrange(const ModelConfig& config, const StoredNames& names,
                                                          std::shared_ptr<const Checkpoint> stored) {
  if (const std::vector<std::string> problems = CheckConfig(config); !problems.empty()) {
    return absl::InvalidArgumentError(absl::StrJoin(problems, "\n"));
  }
  return Arranger(config, names, std::move(stored)).Run();
}

}  // namespace shoal::model
