#include "tests/weights/shards.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "common/base/check.h"
#include "common/model/quantise.h"
#include "tests/testing/temp_dir.h"

namespace shoal::weights {

Region::Region(int64_t bytes) : memory_(static_cast<size_t>(bytes) + 64), size_(static_cast<size_t>(bytes)) {
  const auto misaligned = reinterpret_cast<uintptr_t>(memory_.data()) % 64;
  data_ = memory_.data() + (64 - misaligned) % 64;
}

std::vector<LoadedRank> LoadAll(const model::ModelConfig& config, const model::Checkpoint& checkpoint,
                                const ops::OpTable& table, int tp, int pp, bool compute_f32, int threads) {
  const auto plan = plan::MakeShardPlan(config, tp, pp);
  SHOAL_CHECK(plan.ok());
  std::vector<LoadedRank> out;
  for (const plan::RankShard& shard : plan->ranks) {
    auto layout = MakeLayout(config, checkpoint, shard, table, compute_f32);
    EXPECT_TRUE(layout.ok()) << layout.status();
    auto region = std::make_unique<Region>(layout->region_bytes);
    const absl::Status loaded = LoadShard(checkpoint, *layout, table, region->bytes(), threads, nullptr, nullptr);
    EXPECT_TRUE(loaded.ok()) << loaded;
    auto weights = Bind(region->bytes(), config, shard, table);
    EXPECT_TRUE(weights.ok()) << weights.status();
    out.push_back({shard, *std::move(layout), std::move(region), *std::move(weights)});
  }
  return out;
}

namespace {

// The piece of one rank as the decoder would see it; null data when it has none.
struct Piece {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;
  const float* row_scale = nullptr;
};

// What Reassemble makes of the pieces of one tensor.
struct Whole {
  std::vector<std::byte>* bytes;
  std::vector<bool> written;
  int* conflicts;

  void Put(size_t at, const std::byte* piece, size_t count) {
    if (written.size() < bytes->size()) written.resize(bytes->size());
    for (size_t i = 0; i < count; ++i) {
      if (written[at + i] && (*bytes)[at + i] != piece[i]) ++*conflicts;
      (*bytes)[at + i] = piece[i];
      written[at + i] = true;
    }
  }
};

Piece Of(const ops::Weight& m) { return {static_cast<const std::byte*>(m.data), m.dtype, m.row_scale}; }
Piece Of(const float* v) { return {reinterpret_cast<const std::byte*>(v)}; }

Piece PieceInLayer(const LayerWeights& w, const model::TensorSpec& spec) {
  using model::Role;
  switch (spec.role) {
    case Role::kAttnNorm:
      return Of(w.attn_norm.weight);
    case Role::kAttnNormBias:
      return Of(w.attn_norm.bias);
    case Role::kQ:
      return Of(w.q);
    case Role::kQBias:
      return Of(w.q.bias);
    case Role::kK:
      return Of(w.k);
    case Role::kKBias:
      return Of(w.k.bias);
    case Role::kV:
      return Of(w.v);
    case Role::kVBias:
      return Of(w.v.bias);
    case Role::kQNorm:
      return Of(w.q_norm);
    case Role::kKNorm:
      return Of(w.k_norm);
    case Role::kO:
      return Of(w.o);
    case Role::kOBias:
      return Of(w.o.bias);
    case Role::kAttnPostNorm:
      return Of(w.attn_post_norm.weight);
    case Role::kAttnPostNormBias:
      return Of(w.attn_post_norm.bias);
    case Role::kFfnNorm:
      return Of(w.ffn_norm.weight);
    case Role::kFfnNormBias:
      return Of(w.ffn_norm.bias);
    case Role::kGate:
      return Of(w.gate);
    case Role::kGateBias:
      return Of(w.gate.bias);
    case Role::kUp:
      return Of(w.up);
    case Role::kUpBias:
      return Of(w.up.bias);
    case Role::kDown:
      return Of(w.down);
    case Role::kDownBias:
      return Of(w.down.bias);
    case Role::kRouter:
      return Of(w.router);
    case Role::kExpertGate:
      return Of(ops::WeightOf(w.expert_gate, spec.expert));
    case Role::kExpertUp:
      return Of(ops::WeightOf(w.expert_up, spec.expert));
    case Role::kExpertDown:
      return Of(ops::WeightOf(w.expert_down, spec.expert));
    case Role::kFfnPostNorm:
      return Of(w.ffn_post_norm.weight);
    case Role::kFfnPostNormBias:
      return Of(w.ffn_post_norm.bias);
    default:
      return {};
  }
}

Piece PieceOf(const LoadedRank& rank, const model::TensorSpec& spec) {
  using model::Role;
  const ModelWeights& w = rank.weights;
  switch (spec.role) {
    case Role::kEmbedding:
      return Of(rank.shard.has_embedding ? w.embedding : w.head);
    case Role::kPositions:
      return Of(w.positions);
    case Role::kTokenType:
      return Of(w.token_type);
    case Role::kEmbeddingNorm:
      return Of(w.embedding_norm.weight);
    case Role::kEmbeddingNormBias:
      return Of(w.embedding_norm.bias);
    case Role::kFinalNorm:
      return Of(w.final_norm.weight);
    case Role::kFinalNormBias:
      return Of(w.final_norm.bias);
    case Role::kHead:
      return Of(w.head);
    default:
      return PieceInLayer(w.layers[static_cast<size_t>(spec.layer - rank.shard.layers.begin)], spec);
  }
}

}  // namespace

std::map<std::string, std::vector<std::byte>> Reassemble(const model::ModelConfig& config,
                                                         const std::vector<LoadedRank>& ranks, int* conflicts) {
  std::map<std::string, std::vector<std::byte>> out;
  for (const model::TensorSpec& spec : model::TensorTable(config)) {
    const size_t rows = spec.shape.size() == 1 ? 1 : static_cast<size_t>(spec.shape[0]);
    Whole whole = {&out[spec.name], {}, conflicts};
    std::vector<std::byte> scale_bytes(rows * sizeof(float), std::byte{0xEE});
    Whole scales = {&scale_bytes, {}, conflicts};
    for (const LoadedRank& rank : ranks) {
      const plan::TensorSlice slice = plan::SliceOf(config, rank.shard, spec);
      if (slice.empty()) continue;
      const Piece piece = PieceOf(rank, spec);
      EXPECT_NE(piece.data, nullptr) << spec.name;
      const size_t row_bytes = RowBytes(piece.dtype, spec.shape.back());
      whole.bytes->resize(rows * row_bytes, std::byte{0xEE});
      const size_t part = RowBytes(piece.dtype, slice.columns.size()),
                   skip = RowBytes(piece.dtype, slice.columns.begin);
      for (int r = 0; r < slice.rows.size(); ++r) {
        const size_t at = static_cast<size_t>(slice.rows.begin + r) * row_bytes + skip;
        whole.Put(at, piece.data + static_cast<size_t>(r) * part, part);
        if (piece.row_scale == nullptr) continue;
        scales.Put(static_cast<size_t>(slice.rows.begin + r) * sizeof(float),
                   reinterpret_cast<const std::byte*>(piece.row_scale + r), sizeof(float));
      }
    }
    if (!scales.written.empty()) out[spec.name + "_scale"] = std::move(scale_bytes);
  }
  return out;
}

model::ModelFiles OpenTiny(const testing::TinyModel& asked) {
  const testing::TinyModel model = testing::BeforeInt4(asked);
  const testing::TempDir dir;
  const bool directory = IsByte(model.matrices) || IsByte(model.embedding);
  if (directory) {
    testing::WriteTinyDirectory(model, dir / "tiny", 2);
  } else {
    testing::WriteTinyGguf(model, dir / "tiny.gguf");
  }
  auto files = model::OpenModel(dir / (directory ? "tiny" : "tiny.gguf"));
  EXPECT_TRUE(files.ok()) << files.status();
  if (asked.matrices == DType::kI4) {
    files->checkpoint = model::QuantiseAtLoad(files->checkpoint, files->config, DType::kI4);
  }
  return *std::move(files);
}

std::string DefaultModelPath() {
  const char* root = std::getenv("SHOAL_SOURCE_DIR");
  const std::string path = std::string(root == nullptr ? "." : root) + "/models/SmolLM2-135M-Instruct-Q4_1.gguf";
  return std::filesystem::exists(path) ? path : "";
}

}  // namespace shoal::weights
