#include <cstring>
#include <tuple>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/weights/region.h"
#include "worker/weights/weights.h"

namespace shoal::weights {
namespace {

using model::Role;

// Bytes that a rank of another build, or a bug, may have left: everything is checked before a pointer is made of it.
absl::StatusOr<std::vector<RegionEntry>> ReadDirectory(std::span<const std::byte> region, const ReadMemory& read,
                                                       std::string_view table) {
  RegionHeader header;
  if (region.size() < sizeof(header)) return absl::DataLossError("the region is too small for weights");
  SHOAL_RETURN_IF_ERROR(read(&header, region.data(), sizeof(header)));
  if (std::memcmp(header.magic, kRegionMagic, sizeof(kRegionMagic)) != 0 || header.version != kRegionVersion) {
    return absl::DataLossError("the region holds no weights of this version, or their loading never ended");
  }
  if (header.region_bytes < 0 || static_cast<uint64_t>(header.region_bytes) > region.size() ||
      header.entries > (region.size() - sizeof(header)) / sizeof(RegionEntry)) {
    return absl::DataLossError("the region is smaller than its directory says");
  }
  header.packed_by[sizeof(header.packed_by) - 1] = '\0';
  if (table.substr(0, sizeof(header.packed_by) - 1) != header.packed_by) {
    return absl::DataLossError(
        absl::StrCat("the weights were packed by ", header.packed_by, ", not by ", std::string(table)));
  }
  std::vector<RegionEntry> entries(header.entries);
  SHOAL_RETURN_IF_ERROR(read(entries.data(), region.data() + sizeof(header), entries.size() * sizeof(RegionEntry)));
  for (const RegionEntry& e : entries) {
    const bool inside = e.offset >= DirectoryBytes(entries.size()) && e.offset % kTensorAlignment == 0 &&
                        e.bytes >= 0 && e.offset <= header.region_bytes && e.bytes <= header.region_bytes - e.offset;
    if (!inside || e.dtype >= kDTypes || e.part > static_cast<uint8_t>(WeightLayout::Part::kRowScale))
      return absl::DataLossError("the region's directory is corrupt");
  }
  return entries;
}

// Where the decoder finds a tensor: exactly one of the two is set.
struct Target {
  ops::Weight* matrix = nullptr;
  const float** vector = nullptr;
};

Target TargetOf(ModelWeights& out, const plan::RankShard& shard, const model::TensorSpec& spec) {
  LayerWeights* layer = spec.layer >= 0 ? &out.layers[static_cast<size_t>(spec.layer - shard.layers.begin)] : nullptr;
  switch (spec.role) {
    case Role::kEmbedding:
      return {.matrix = &out.embedding};
    case Role::kHead:
      return {.matrix = &out.head};
    case Role::kFinalNorm:
      return {.vector = &out.final_norm};
    case Role::kAttnNorm:
      return {.vector = &layer->attn_norm};
    case Role::kFfnNorm:
      return {.vector = &layer->ffn_norm};
    case Role::kQ:
      return {.matrix = &layer->q};
    case Role::kK:
      return {.matrix = &layer->k};
    case Role::kV:
      return {.matrix = &layer->v};
    case Role::kO:
      return {.matrix = &layer->o};
    case Role::kGate:
      return {.matrix = &layer->gate};
    case Role::kUp:
      return {.matrix = &layer->up};
    case Role::kDown:
      return {.matrix = &layer->down};
  }
  return {};
}

// The piece that this rank needs, in as many bytes as the table makes of it.
bool Matches(const RegionEntry& e, const plan::TensorSlice& slice, bool vector, const ops::OpTable& table) {
  if (slice.rows != plan::Range{e.row_begin, e.row_end}) return false;
  if (slice.columns != plan::Range{e.column_begin, e.column_end}) return false;
  const auto type = static_cast<DType>(e.dtype);
  if (vector) return type == DType::kF32 && e.bytes == static_cast<int64_t>(RowBytes(type, slice.columns.size()));
  return table.supports(type) && slice.columns.size() % Info(type).block == 0 &&
         e.bytes == static_cast<int64_t>(table.packed_bytes(type, slice.rows.size(), slice.columns.size()));
}

bool ScalesRows(const RegionEntry& e, const plan::TensorSlice& slice) {
  return slice.rows == plan::Range{e.row_begin, e.row_end} && static_cast<DType>(e.dtype) == DType::kF32 &&
         e.bytes == static_cast<int64_t>(RowBytes(DType::kF32, slice.rows.size()));
}

}  // namespace

absl::StatusOr<ModelWeights> Bind(std::span<const std::byte> region, const model::ModelConfig& config,
                                  const plan::RankShard& shard, const ops::OpTable& table) {
  const auto read = [](void* to, const std::byte* from, size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
    return absl::OkStatus();
  };
  return Bind(region, read, config, shard, table);
}

absl::StatusOr<ModelWeights> Bind(std::span<const std::byte> region, const ReadMemory& read,
                                  const model::ModelConfig& config, const plan::RankShard& shard,
                                  const ops::OpTable& table) {
  if (reinterpret_cast<uintptr_t>(region.data()) % kTensorAlignment != 0) {
    return absl::InvalidArgumentError("the region is not aligned to 64 bytes");
  }
  SHOAL_ASSIGN_OR_RETURN(const std::vector<RegionEntry> entries, ReadDirectory(region, read, table.name));
  using Part = WeightLayout::Part;
  absl::flat_hash_map<std::tuple<int, int, Part>, const RegionEntry*> by_role;
  for (const RegionEntry& e : entries) by_role[{e.role, e.layer, static_cast<Part>(e.part)}] = &e;
  ModelWeights out;
  out.layers.resize(static_cast<size_t>(shard.layers.size()));
  size_t bound = 0;
  for (const model::TensorSpec& spec : model::TensorTable(config)) {
    const plan::TensorSlice slice = plan::SliceOf(config, shard, spec);
    if (slice.empty()) continue;
    const auto it = by_role.find({static_cast<int>(spec.role), spec.layer, Part::kTensor});
    if (it == by_role.end() || !Matches(*it->second, slice, IsVector(spec), table)) {
      return absl::DataLossError(absl::StrCat("the region does not hold this rank's part of ", spec.name));
    }
    ++bound;
    const std::byte* data = region.data() + it->second->offset;
    const Target target = TargetOf(out, shard, spec);
    if (target.vector != nullptr) {
      *target.vector = reinterpret_cast<const float*>(data);
      continue;
    }
    *target.matrix = {data, static_cast<DType>(it->second->dtype), slice.rows.size(), slice.columns.size()};
    const auto scale = by_role.find({static_cast<int>(spec.role), spec.layer, Part::kRowScale});
    if (scale == by_role.end()) continue;
    if (!ScalesRows(*scale->second, slice)) {
      return absl::DataLossError(absl::StrCat("the region does not hold this rank's scales of ", spec.name));
    }
    ++bound;
    target.matrix->row_scale = reinterpret_cast<const float*>(region.data() + scale->second->offset);
  }
  if (bound != entries.size()) return absl::DataLossError("the region holds tensors that this rank has no use for");
  if (config.tied_embeddings && shard.has_head) out.head = out.embedding;
  if (!shard.has_embedding) out.embedding = {};
  return out;
}

}  // namespace shoal::weights
