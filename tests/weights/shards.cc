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

Piece PieceOf(const LoadedRank& rank, const model::TensorSpec& spec) {
  using model::Role;
  const ModelWeights& w = rank.weights;
  const LayerWeights* layer =
      spec.layer < 0 ? nullptr : &w.layers[static_cast<size_t>(spec.layer - rank.shard.layers.begin)];
  const auto matrix = [](const ops::Weight& m) {
    return Piece{static_cast<const std::byte*>(m.data), m.dtype, m.row_scale};
  };
  const auto vector = [](const float* v) { return Piece{reinterpret_cast<const std::byte*>(v)}; };
  switch (spec.role) {
    case Role::kEmbedding:
      return matrix(rank.shard.has_embedding ? w.embedding : w.head);
    case Role::kHead:
      return matrix(w.head);
    case Role::kFinalNorm:
      return vector(w.final_norm);
    case Role::kAttnNorm:
      return vector(layer->attn_norm);
    case Role::kFfnNorm:
      return vector(layer->ffn_norm);
    case Role::kQ:
      return matrix(layer->q);
    case Role::kK:
      return matrix(layer->k);
    case Role::kV:
      return matrix(layer->v);
    case Role::kO:
      return matrix(layer->o);
    case Role::kGate:
      return matrix(layer->gate);
    case Role::kUp:
      return matrix(layer->up);
    case Role::kDown:
      return matrix(layer->down);
  }
  return {};
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
