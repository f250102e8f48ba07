#include "common/model/checkpoint.h"

#include <functional>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace shoal::model {

const TensorEntry* Checkpoint::Find(std::string_view name) const {
  for (const TensorEntry& t : tensors()) {
    if (t.name == name) return &t;
  }
  return nullptr;
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
