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
  return static_cast<int64_t>(item.spec.is_vector() ? RowBytes(item.dtype, columns)
                                                    : table.packed_bytes(item.dtype, rows, columns));
}

// Two experts' matrices of one role in one layer.
bool SameExperts(const model::TensorSpec& a, const model::TensorSpec& b) {
  return a.expert >= 0 && b.expert >= 0 && a.role == b.role && a.layer == b.layer;
}

}  // namespace

absl::StatusOr<WeightLayout> MakeLayout(const model::ModelConfig& config, const model::Checkpoint& checkpoint,
                                        const plan::RankShard& shard, const ops::OpTable& table, bool compute_f32) {
  SHOAL_RETURN_IF_ERROR(model::CheckTensors(config, checkpoint));
  const model::TensorIndex index(checkpoint);
  WeightLayout layout;
  std::set<std::string> unsupported;
  std::vector<WeightLayout::Item> scales;  // behind the matrices of all experts of a role
  const auto put_scales = [&] {
    for (WeightLayout::Item& scale : scales) layout.items.push_back(std::move(scale));
    scales.clear();
  };
  for (model::TensorSpec& spec : model::TensorTable(config)) {
    if (!scales.empty() && !SameExperts(scales.back().spec, spec)) put_scales();
    const plan::TensorSlice slice = plan::SliceOf(config, shard, spec);
    if (slice.empty()) continue;
    const model::TensorEntry* stored = index.Find(spec.name);
    const DType dtype = spec.is_vector() || compute_f32 ? DType::kF32 : stored->dtype;
    if (!spec.is_vector() && !table.supports(dtype)) unsupported.insert(std::string(Info(dtype).name));
    layout.items.push_back({.spec = spec, .stored = stored, .slice = slice, .dtype = dtype});
    const model::TensorEntry* scale = spec.is_vector() ? nullptr : model::FindRowScale(index, *stored);
    // A backend that keeps nothing of a matrix has no use for its scales.
    if (scale == nullptr || PackedBytes(layout.items.back(), table) == 0) continue;
    scales.push_back({.spec = std::move(spec),
                      .stored = scale,
                      .slice = {.rows = slice.rows, .columns = {0, 1}},
                      .dtype = DType::kF32,
                      .part = WeightLayout::Part::kRowScale});
  }
  put_scales();
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
