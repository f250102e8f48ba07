#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "worker/weights/region.h"
#include "worker/weights/weights.h"

namespace shoal::weights {

absl::StatusOr<WeightLayout> MakeLayout(const model::ModelConfig& config, const model::Checkpoint& checkpoint,
                                        const plan::RankShard& shard, const ops::OpTable& table, bool compute_f32) {
  SHOAL_RETURN_IF_ERROR(model::CheckTensors(config, checkpoint));
  WeightLayout layout;
  std::set<std::string> unsupported;
  for (model::TensorSpec& spec : model::TensorTable(config)) {
    const plan::TensorSlice slice = plan::SliceOf(config, shard, spec);
    if (slice.empty()) continue;
    const model::TensorEntry* stored = model::FindStored(checkpoint, spec);
    const bool vector = IsVector(spec);
    const DType dtype = vector || compute_f32 ? DType::kF32 : stored->dtype;
    if (!vector && !table.supports(dtype)) unsupported.insert(std::string(Info(dtype).name));
    layout.items.push_back({std::move(spec), stored, slice, dtype, 0, 0});
  }
  if (!unsupported.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("backend ", std::string(table.name),
                                                   " cannot compute with weights of type ",
                                                   absl::StrJoin(unsupported, ", ")));
  }
  int64_t offset = DirectoryBytes(layout.items.size());
  for (WeightLayout::Item& item : layout.items) {
    const int64_t rows = item.slice.rows.size(), columns = item.slice.columns.size();
    item.offset = offset;
    item.bytes = static_cast<int64_t>(IsVector(item.spec) ? RowBytes(DType::kF32, columns)
                                                          : table.packed_bytes(item.dtype, rows, columns));
    offset = AlignUp(offset + item.bytes);
    // A backend that keeps nothing of a matrix has nothing read of it.
    if (item.bytes > 0) layout.read_bytes += rows * static_cast<int64_t>(RowBytes(item.stored->dtype, columns));
  }
  layout.region_bytes = offset;
  return layout;
}

}  // namespace shoal::weights
