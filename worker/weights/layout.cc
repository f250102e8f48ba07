#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "worker/weights/region.h"
#include "worker/weights/weights.h"

namespace shoal::weights {
namespace {

int64_t PackedBytes(const WeightLayout::Item& item, const ops::OpTable& table) {
  const int64_t rows = item.slice.rows.size(), columns = item.slice.columns.size();
  if (item.part == WeightLayout::Part::kRowScale) return static_cast<int64_t>(RowBytes(item.dtype, rows));
  return static_cast<int64_t>(IsVector(item.spec) ? RowBytes(item.dtype, columns)
                                                  : table.packed_bytes(item.dtype, rows, columns));
}

}  // namespace

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
    layout.items.push_back({.spec = spec, .stored = stored, .slice = slice, .dtype = dtype});
    const model::TensorEntry* scale = vector ? nullptr : model::FindRowScale(checkpoint, *stored);
    // A backend that keeps nothing of a matrix has no use for its scales.
    if (scale == nullptr || PackedBytes(layout.items.back(), table) == 0) continue;
    layout.items.push_back({.spec = std::move(spec),
                            .stored = scale,
                            .slice = {.rows = slice.rows, .columns = {0, 1}},
                            .dtype = DType::kF32,
                            .part = WeightLayout::Part::kRowScale});
  }
  if (!unsupported.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("backend ", std::string(table.name),
                                                   " cannot compute with weights of type ",
                                                   absl::StrJoin(unsupported, ", ")));
  }
  int64_t offset = DirectoryBytes(layout.items.size());
  for (WeightLayout::Item& item : layout.items) {
    item.offset = offset;
    item.bytes = PackedBytes(item, table);
    offset = AlignUp(offset + item.bytes);
    // A backend that keeps nothing of a matrix has nothing read of it.
    if (item.bytes > 0) layout.read_bytes += StoredRows(item) * StoredRowBytes(item);
  }
  layout.region_bytes = offset;
  return layout;
}

}  // namespace shoal::weights
