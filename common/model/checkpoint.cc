#include "common/model/checkpoint.h"

#include <functional>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace shoal::model {

const TensorEntry* Checkpoint::Find(std::string_view name) const {
  for (const TensorEntry& t : tensors()) {
    if (t.name == name) return &t;
  }
  return nullptr;
}

absl::Status Checkpoint::ReadBlock(const TensorEntry& tensor, const TensorBlock& b, std::span<std::byte> dst) const {
  const auto whole = static_cast<int64_t>(RowBytes(tensor.dtype, tensor.shape.empty() ? 1 : tensor.shape.back()));
  const auto skip = static_cast<int64_t>(RowBytes(tensor.dtype, b.column));
  const auto row = static_cast<int64_t>(RowBytes(tensor.dtype, b.columns));
  SHOAL_CHECK(static_cast<int64_t>(dst.size()) == b.rows * row);
  const int64_t rows_per_read = row == whole ? b.rows : 1;
  for (int64_t r = 0; r < b.rows; r += rows_per_read) {
    const auto part = dst.subspan(static_cast<size_t>(r * row), static_cast<size_t>(rows_per_read * row));
    SHOAL_RETURN_IF_ERROR(Read(tensor, (b.row + r) * whole + skip, part));
  }
  return absl::OkStatus();
}

TensorIndex::TensorIndex(const Checkpoint& checkpoint) {
  entries_.reserve(checkpoint.tensors().size());
  for (const TensorEntry& t : checkpoint.tensors()) entries_.emplace(t.name, &t);
}

const TensorEntry* TensorIndex::Find(std::string_view name) const {
  const auto it = entries_.find(absl::string_view(name.data(), name.size()));
  return it == entries_.end() ? nullptr : it->second;
}

absl::Status Checkpoint::CheckRange(const TensorEntry& tensor, int64_t offset, size_t bytes) const {
  const std::span<const TensorEntry> all = tensors();
  const std::less<const TensorEntry*> before;
  SHOAL_CHECK(!before(&tensor, all.data()) && before(&tensor, all.data() + all.size()));
  if (offset >= 0 && offset <= tensor.bytes && bytes <= static_cast<uint64_t>(tensor.bytes - offset))
    return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("range [", offset, ", +", bytes, ") is outside tensor ", tensor.name,
                                                 " of ", tensor.bytes, " bytes"));
}

}  // namespace shoal::model
