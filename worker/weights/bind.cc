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

// Where the decoder finds a tensor: exactly one of them is set.
struct Target {
  ops::Weight* matrix = nullptr;
  const float** vector = nullptr;
  ops::ExpertWeights* experts = nullptr;
};

Target TargetInLayer(LayerWeights& w, Role role) {
  switch (role) {
    case Role::kAttnNorm:
      return {.vector = &w.attn_norm.weight};
    case Role::kAttnNormBias:
      return {.vector = &w.attn_norm.bias};
    case Role::kQ:
      return {.matrix = &w.q};
    case Role::kQBias:
      return {.vector = &w.q.bias};
    case Role::kK:
      return {.matrix = &w.k};
    case Role::kKBias:
      return {.vector = &w.k.bias};
    case Role::kV:
      return {.matrix = &w.v};
    case Role::kVBias:
      return {.vector = &w.v.bias};
    case Role::kQNorm:
      return {.vector = &w.q_norm};
    case Role::kKNorm:
      return {.vector = &w.k_norm};
    case Role::kO:
      return {.matrix = &w.o};
    case Role::kOBias:
      return {.vector = &w.o.bias};
    case Role::kAttnPostNorm:
      return {.vector = &w.attn_post_norm.weight};
    case Role::kAttnPostNormBias:
      return {.vector = &w.attn_post_norm.bias};
    case Role::kFfnNorm:
      return {.vector = &w.ffn_norm.weight};
    case Role::kFfnNormBias:
      return {.vector = &w.ffn_norm.bias};
    case Role::kGate:
      return {.matrix = &w.gate};
    case Role::kGateBias:
      return {.vector = &w.gate.bias};
    case Role::kUp:
      return {.matrix = &w.up};
    case Role::kUpBias:
      return {.vector = &w.up.bias};
    case Role::kDown:
      return {.matrix = &w.down};
    case Role::kDownBias:
      return {.vector = &w.down.bias};
    case Role::kRouter:
      return {.matrix = &w.router};
    case Role::kExpertGate:
      return {.experts = &w.expert_gate};
    case Role::kExpertUp:
      return {.experts = &w.expert_up};
    case Role::kExpertDown:
      return {.experts = &w.expert_down};
    case Role::kFfnPostNorm:
      return {.vector = &w.ffn_post_norm.weight};
    case Role::kFfnPostNormBias:
      return {.vector = &w.ffn_post_norm.bias};
    default:
      return {};
  }
}

Target TargetOf(ModelWeights& out, const plan::RankShard& shard, const model::TensorSpec& spec) {
  switch (spec.role) {
    case Role::kEmbedding:
      return {.matrix = &out.embedding};
    case Role::kPositions:
      return {.matrix = &out.positions};
    case Role::kTokenType:
      return {.vector = &out.token_type};
    case Role::kEmbeddingNorm:
      return {.vector = &out.embedding_norm.weight};
    case Role::kEmbeddingNormBias:
      return {.vector = &out.embedding_norm.bias};
    case Role::kFinalNorm:
      return {.vector = &out.final_norm.weight};
    case Role::kFinalNormBias:
      return {.vector = &out.final_norm.bias};
    case Role::kHead:
      return {.matrix = &out.head};
    default:
      return TargetInLayer(out.layers[static_cast<size_t>(spec.layer - shard.layers.begin)], spec.role);
  }
}

// Takes in the next expert's matrix: the first says where they begin, the second how far they are apart, the others
// have to lie so.
bool Join(int32_t expert, const ops::Weight& matrix, ops::ExpertWeights* experts) {
  if (expert == 0) *experts = {.first = matrix, .stride = 0};
  const auto apart = static_cast<const std::byte*>(matrix.data) - static_cast<const std::byte*>(experts->first.data);
  if (expert == 1) experts->stride = apart;
  const ops::Weight wanted = ops::WeightOf(*experts, expert);
  return matrix.dtype == wanted.dtype && matrix.data == wanted.data && matrix.row_scale == wanted.row_scale;
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
  absl::flat_hash_map<std::tuple<int, int, int, Part>, const RegionEntry*> by_role;
  for (const RegionEntry& e : entries) by_role[{e.role, e.layer, e.expert, static_cast<Part>(e.part)}] = &e;
  const auto find = [&](const model::TensorSpec& spec, Part part) -> const RegionEntry* {
    const auto it = by_role.find({static_cast<int>(spec.role), spec.layer, spec.expert, part});
    return it == by_role.end() ? nullptr : it->second;
  };
  ModelWeights out;
  out.layers.resize(static_cast<size_t>(shard.layers.size()));
  size_t bound = 0;
  for (const model::TensorSpec& spec : model::TensorTable(config)) {
    const plan::TensorSlice slice = plan::SliceOf(config, shard, spec);
    if (slice.empty()) continue;
    const RegionEntry* const entry = find(spec, Part::kTensor);
    if (entry == nullptr || !Matches(*entry, slice, spec.is_vector(), table)) {
      return absl::DataLossError(absl::StrCat("the region does not hold this rank's part of ", spec.name));
    }
    ++bound;
    const std::byte* data = region.data() + entry->offset;
    const Target target = TargetOf(out, shard, spec);
    if (target.vector != nullptr) {
      *target.vector = reinterpret_cast<const float*>(data);
      continue;
    }
    ops::Weight matrix = {data, static_cast<DType>(entry->dtype), slice.rows.size(), slice.columns.size()};
    if (const RegionEntry* const scale = find(spec, Part::kRowScale); scale != nullptr) {
      if (!ScalesRows(*scale, slice)) {
        return absl::DataLossError(absl::StrCat("the region does not hold this rank's scales of ", spec.name));
      }
      ++bound;
      matrix.row_scale = reinterpret_cast<const float*>(region.data() + scale->offset);
    }
    if (target.matrix != nullptr) {
      *target.matrix = matrix;
    } else if (!Join(spec.expert, matrix, target.experts)) {
      return absl::DataLossError(
          absl::StrCat("the region does not hold ", spec.name, " where the experts before it say"));
    }
  }
  if (bound != entries.size()) return absl::DataLossError("the region holds tensors that this rank has no use for");
  if (config.tied_embeddings && shard.has_head) out.head = out.embedding;
  if (!shard.has_embedding) out.embedding = {};
  return out;
}

}  // namespace shoal::weights
