#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <map>
#include <span>

#include "common/model/quantise.h"
#include "kernels/ops/backends.h"
#include "tests/testing/quantise.h"
#include "tests/testing/temp_dir.h"
#include "tests/weights/shards.h"

namespace shoal::weights {
namespace {

using testing::TinyModel;

const ops::OpTable& Ref() { return **ops::FindOpTable("ref"); }

// Uneven in every way: 6 heads over 3 kv heads, 7 feed-forward blocks, 9 vocabulary blocks, 3 layers.
TinyModel Uneven(DType type) {
  TinyModel m;
  m.layers = 3;
  m.heads = 6;
  m.kv_heads = 3;
  m.ffn = 224;
  m.matrices = type;
  m.embedding = type;
  return m;
}

struct Shape {
  int tp, pp;
};
constexpr Shape kShapes[] = {{1, 1}, {2, 1}, {3, 1}, {4, 1}, {6, 1}, {1, 2}, {1, 3}, {2, 2}, {3, 2}, {5, 3}};

void ExpectLayoutFree(const model::ModelConfig& config, const model::Checkpoint& checkpoint, bool compute_f32) {
  int conflicts = 0;
  const auto whole = Reassemble(config, LoadAll(config, checkpoint, Ref(), 1, 1, compute_f32), &conflicts);
  ASSERT_FALSE(whole.empty());
  for (const Shape s : kShapes) {
    const auto again = Reassemble(config, LoadAll(config, checkpoint, Ref(), s.tp, s.pp, compute_f32), &conflicts);
    ASSERT_EQ(again.size(), whole.size());
    for (const auto& [name, bytes] : whole)
      ASSERT_TRUE(bytes == again.at(name)) << name << " at " << s.tp << "x" << s.pp;
  }
  ASSERT_EQ(conflicts, 0);
}

TEST(Load, EveryLayoutHoldsTheSameWeights) {
  for (int i = 0; i < kDTypes; ++i) {
    const auto type = static_cast<DType>(i);
    const model::ModelFiles files = OpenTiny(Uneven(type));
    ASSERT_NO_FATAL_FAILURE(ExpectLayoutFree(files.config, *files.checkpoint, false)) << Info(type).name;
  }
}

TEST(Load, UntiedHead) {
  TinyModel m = Uneven(DType::kQ8_0);
  m.tied = false;
  const model::ModelFiles files = OpenTiny(m);
  ASSERT_NO_FATAL_FAILURE(ExpectLayoutFree(files.config, *files.checkpoint, false));
}

TEST(Load, DummyWeightsAreTheSameInEveryLayout) {
  const model::ModelFiles files = OpenTiny(Uneven(DType::kQ4_1));
  const auto dummy = model::MakeDummyCheckpoint(files.checkpoint, 5);
  ASSERT_NO_FATAL_FAILURE(ExpectLayoutFree(files.config, *dummy, false));
  ASSERT_NO_FATAL_FAILURE(ExpectLayoutFree(files.config, *dummy, true));
}

// The 1x1 weights are the file's bytes: what all other layouts are compared with is itself right.
TEST(Load, WholeWeightsAreTheBytesOfTheFile) {
  const model::ModelFiles files = OpenTiny(Uneven(DType::kQ4_0));
  int conflicts = 0;
  const auto whole = Reassemble(files.config, LoadAll(files.config, *files.checkpoint, Ref(), 1, 1), &conflicts);
  for (const model::TensorSpec& spec : model::TensorTable(files.config)) {
    const model::TensorEntry* t = files.checkpoint->Find(spec.name);
    std::vector<std::byte> stored(static_cast<size_t>(t->bytes));
    ASSERT_TRUE(files.checkpoint->Read(*t, 0, stored).ok());
    EXPECT_TRUE(whole.at(spec.name) == stored) << spec.name;
  }
}

TEST(Load, ComputeF32HoldsTheDequantisedValues) {
  const model::ModelFiles files = OpenTiny(Uneven(DType::kQ4_1));
  ASSERT_NO_FATAL_FAILURE(ExpectLayoutFree(files.config, *files.checkpoint, true));
  const auto ranks = LoadAll(files.config, *files.checkpoint, Ref(), 1, 1, true);
  const model::TensorEntry* t = files.checkpoint->Find("layers.1.ffn.down");
  std::vector<std::byte> stored(static_cast<size_t>(t->bytes));
  ASSERT_TRUE(files.checkpoint->Read(*t, 0, stored).ok());
  std::vector<float> wanted(static_cast<size_t>(t->shape[0] * t->shape[1]));
  DequantiseRow(t->dtype, stored.data(), static_cast<int64_t>(wanted.size()), wanted.data());
  const ops::Weight& down = ranks[0].weights.layers[1].down;
  EXPECT_EQ(down.dtype, DType::kF32);
  EXPECT_EQ(std::memcmp(down.data, wanted.data(), wanted.size() * sizeof(float)), 0);
}

TEST(Load, NormsOfAnyTypeBecomeF32) {
  const testing::TempDir dir;
  TinyModel m;
  m.matrices = DType::kBF16;
  testing::WriteTinyDirectory(m, dir.path(), 2);
  const auto files = model::OpenModel(dir.path());
  ASSERT_TRUE(files.ok()) << files.status();
  const auto ranks = LoadAll(files->config, *files->checkpoint, Ref(), 1, 1);
  const auto tensors = testing::TinyTensors(m);
  const auto norm =
      std::find_if(tensors.begin(), tensors.end(), [](const auto& t) { return t.hf_name == "model.norm.weight"; });
  EXPECT_TRUE(std::equal(norm->values.begin(), norm->values.end(), ranks[0].weights.final_norm.weight));
}

// Stored as one for all, as a list, as a column; in f32 and in bf16.
TEST(Load, ScalesOfEveryShapeBecomeOneForEachRow) {
  const TinyModel m = Uneven(DType::kF8E4M3);
  std::map<std::string, testing::RawTensor> tensors;
  std::map<std::string, std::vector<float>> scales;
  for (const testing::TinyTensor& t : testing::TinyTensors(m)) {
    if (t.shape.size() == 1) {
      tensors[t.hf_name] = {"F32", t.shape, testing::Stored(DType::kF32, t.values)};
      continue;
    }
    testing::StoredRows stored = testing::StoredByRows(DType::kF8E4M3, t.values, t.shape[1]);
    tensors[t.hf_name] = {"F8_E4M3", t.shape, stored.codes};
    std::vector<float>& scale = scales[t.name] = stored.scales;
    for (float& s : scale) s = BF16ToF32(F32ToBF16(s));
    const int64_t rows = t.shape[0];
    const std::vector<int64_t> shapes[] = {{}, {1}, {1, 1}, {rows}, {rows, 1}};
    const std::vector<int64_t>& shape = shapes[scales.size() % 5];
    if (scales.size() % 5 < 3) std::fill(scale.begin(), scale.end(), scale[0]);
    const std::span<const float> kept = std::span(scale).first(scales.size() % 5 < 3 ? 1 : scale.size());
    const bool narrow = scales.size() % 2 == 0;
    tensors[t.hf_name + "_scale"] = {narrow ? "BF16" : "F32", shape,
                                     testing::Stored(narrow ? DType::kBF16 : DType::kF32, kept)};
  }
  const testing::TempDir dir;
  testing::WriteFile(dir / "config.json", testing::TinyConfigJson(m));
  testing::WriteFile(dir / "model.safetensors", testing::SafetensorsFile(tensors));
  const auto files = model::OpenModel(dir.path());
  ASSERT_TRUE(files.ok()) << files.status();
  ASSERT_NO_FATAL_FAILURE(ExpectLayoutFree(files->config, *files->checkpoint, true));
  int conflicts = 0;
  for (const Shape s : kShapes) {
    const int64_t before = files->checkpoint->bytes_read();
    const auto ranks = LoadAll(files->config, *files->checkpoint, Ref(), s.tp, s.pp);
    int64_t promised = 0;
    for (const LoadedRank& rank : ranks) promised += rank.layout.read_bytes;
    EXPECT_EQ(files->checkpoint->bytes_read() - before, promised);
    const auto whole = Reassemble(files->config, ranks, &conflicts);
    for (const model::TensorSpec& spec : model::TensorTable(files->config)) {
      if (spec.shape.size() == 1) continue;
      const std::vector<float>& wanted = scales.at(spec.name);
      const std::vector<std::byte>& got = whole.at(spec.name + "_scale");
      ASSERT_EQ(got.size(), wanted.size() * sizeof(float));
      EXPECT_EQ(std::memcmp(got.data(), wanted.data(), got.size()), 0) << spec.name << " at " << s.tp << "x" << s.pp;
    }
  }
  EXPECT_EQ(conflicts, 0);
}

TEST(Load, DummyScalesAreTheSameInEveryLayout) {
  for (const DType type : {DType::kF8E4M3, DType::kI8}) {
    const model::ModelFiles files = OpenTiny(Uneven(type));
    const auto dummy = model::MakeDummyCheckpoint(files.checkpoint, 5);
    ASSERT_NO_FATAL_FAILURE(ExpectLayoutFree(files.config, *dummy, false));
    const auto ranks = LoadAll(files.config, *dummy, Ref(), 1, 1);
    ASSERT_NE(ranks[0].weights.layers[2].down.row_scale, nullptr);
    EXPECT_NE(ranks[0].weights.layers[2].down.row_scale[0], ranks[0].weights.layers[2].down.row_scale[1]);
  }
}

// Cut before or after, a matrix that is quantised while it is read has the same codes and scales.
TEST(Load, QuantisedAtLoadIsTheSameInEveryLayout) {
  const model::ModelFiles files = OpenTiny(Uneven(DType::kBF16));
  for (const DType type : {DType::kF8E4M3, DType::kI8, DType::kI4}) {
    const auto quantised = model::QuantiseAtLoad(files.checkpoint, files.config, type);
    ASSERT_NO_FATAL_FAILURE(ExpectLayoutFree(files.config, *quantised, false));
    const auto ranks = LoadAll(files.config, *quantised, Ref(), 3, 1);
    EXPECT_EQ(ranks[1].weights.layers[2].down.dtype, type);
    EXPECT_EQ(ranks[1].weights.embedding.dtype, DType::kBF16);
  }
}

TEST(Load, AMatrixWithoutScalesHasNone) {
  const TinyModel m = Uneven(DType::kI8);
  std::map<std::string, testing::RawTensor> tensors;
  for (const testing::TinyTensor& t : testing::TinyTensors(m)) {
    const bool norm = t.shape.size() == 1;
    tensors[t.hf_name] = {norm ? "F32" : "I8", t.shape, testing::Stored(norm ? DType::kF32 : DType::kI8, t.values)};
  }
  const testing::TempDir dir;
  testing::WriteFile(dir / "config.json", testing::TinyConfigJson(m));
  testing::WriteFile(dir / "model.safetensors", testing::SafetensorsFile(tensors));
  const auto files = model::OpenModel(dir.path());
  ASSERT_TRUE(files.ok()) << files.status();
  const auto ranks = LoadAll(files->config, *files->checkpoint, Ref(), 2, 1);
  EXPECT_EQ(ranks[1].weights.layers[0].q.dtype, DType::kI8);
  EXPECT_EQ(ranks[1].weights.layers[0].q.row_scale, nullptr);
}

// Of the rank that holds it alone; scales or not.
TEST(Load, ACodeThatIsNoNumberIsRefusedWithItsPlace) {
  const TinyModel m = Uneven(DType::kF8E4M3);
  const std::string broken = "model.layers.1.mlp.down_proj.weight";
  for (const char code : {'\x7F', '\xFF'}) {
    std::map<std::string, testing::RawTensor> tensors;
    for (const testing::TinyTensor& t : testing::TinyTensors(m)) {
      const bool norm = t.shape.size() == 1;
      auto stored = testing::Stored(norm ? DType::kF32 : DType::kF8E4M3, t.values);
      if (t.hf_name == broken) stored[static_cast<size_t>(3 * t.shape[1])] = code;
      tensors[t.hf_name] = {norm ? "F32" : "F8_E4M3", t.shape, stored};
    }
    const testing::TempDir dir;
    testing::WriteFile(dir / "config.json", testing::TinyConfigJson(m));
    testing::WriteFile(dir / "model.safetensors", testing::SafetensorsFile(tensors));
    const auto files = model::OpenModel(dir.path());
    ASSERT_TRUE(files.ok()) << files.status();
    const auto plan = plan::MakeShardPlan(files->config, 2, 1);  // column 0 of `down` is the first rank's
    for (size_t rank = 0; rank < 2; ++rank) {
      const auto layout = MakeLayout(files->config, *files->checkpoint, plan->ranks[rank], Ref(), false);
      ASSERT_TRUE(layout.ok()) << layout.status();
      Region region(layout->region_bytes);
      const absl::Status loaded = LoadShard(*files->checkpoint, *layout, Ref(), region.bytes(), 2, nullptr, nullptr);
      if (rank == 1) {
        EXPECT_TRUE(loaded.ok()) << loaded;
        continue;
      }
      EXPECT_EQ(loaded.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_NE(loaded.message().find("layers.1.ffn.down, row 3:"), absl::string_view::npos) << loaded;
    }
  }
}

// Every backend: pieces packed task by task equal the slice packed in one call.
TEST(Load, PacksInRowGroupsAsTheBackendAsks) {
  const model::ModelFiles files = OpenTiny(Uneven(DType::kQ4_1));
  for (const ops::OpTable* table : ops::RunnableOpTables()) {
    for (const LoadedRank& rank : LoadAll(files.config, *files.checkpoint, *table, 4, 2)) {
      for (const WeightLayout::Item& item : rank.layout.items) {
        if (item.spec.shape.size() == 1) continue;
        const int64_t rows = item.slice.rows.size(), columns = item.slice.columns.size();
        const size_t row = RowBytes(item.dtype, columns), stored_row = RowBytes(item.dtype, item.stored->shape.back());
        std::vector<std::byte> canonical(row * static_cast<size_t>(rows)),
            whole(static_cast<size_t>(item.stored->bytes));
        ASSERT_TRUE(files.checkpoint->Read(*item.stored, 0, whole).ok());
        for (int64_t r = 0; r < rows; ++r) {
          const size_t at = static_cast<size_t>(item.slice.rows.begin + r) * stored_row;
          std::memcpy(canonical.data() + static_cast<size_t>(r) * row,
                      whole.data() + at + RowBytes(item.dtype, item.slice.columns.begin), row);
        }
        Region wanted(item.bytes);
        table->pack_rows(item.dtype, canonical.data(), 0, rows, rows, columns, wanted.bytes().data());
        const std::byte* got = rank.region->bytes().data() + item.offset;
        ASSERT_TRUE(std::equal(got, got + item.bytes, wanted.bytes().begin())) << table->name << " " << item.spec.name;
      }
    }
  }
}

// Long matrices are cut into tasks; borders must be multiples of the row group, and each row packed exactly once.
std::atomic<int64_t> g_rows_packed{0};
std::atomic<bool> g_borders_kept{true};
TEST(Load, TasksEndOnRowGroups) {
  TinyModel m;
  m.layers = 1;
  m.vocab = 9001;  // 2.3 MB of f32: three tasks
  const model::ModelFiles files = OpenTiny(m);
  ops::OpTable table = Ref();
  table.row_group = 48;
  table.pack_rows = [](DType t, const void* src, int64_t begin, int64_t rows, int64_t n, int64_t k, void* dst) {
    g_rows_packed += rows;
    if (begin % 48 != 0 || (rows % 48 != 0 && begin + rows != n)) g_borders_kept = false;
    std::memcpy(static_cast<char*>(dst) + RowBytes(t, k) * static_cast<size_t>(begin), src,
                RowBytes(t, k) * static_cast<size_t>(rows));
  };
  const auto ranks = LoadAll(files.config, *files.checkpoint, table, 1, 1);
  int64_t rows = 0;
  for (const WeightLayout::Item& item : ranks[0].layout.items)
    rows += item.spec.shape.size() == 1 ? 0 : item.slice.rows.size();
  EXPECT_EQ(g_rows_packed, rows);
  EXPECT_TRUE(g_borders_kept);
  int conflicts = 0;
  const auto cut = Reassemble(files.config, ranks, &conflicts);
  EXPECT_TRUE(cut == Reassemble(files.config, LoadAll(files.config, *files.checkpoint, Ref(), 1, 1), &conflicts));
}

TEST(Load, AnyNumberOfThreadsGivesTheSameRegion) {
  const model::ModelFiles files = OpenTiny(Uneven(DType::kF8E4M3));
  const auto one = LoadAll(files.config, *files.checkpoint, Ref(), 1, 1, false, 1);
  const auto five = LoadAll(files.config, *files.checkpoint, Ref(), 1, 1, false, 5);
  EXPECT_TRUE(std::ranges::equal(one[0].region->bytes(), five[0].region->bytes()));
}

TEST(Load, ProgressIsWhatTheReaderCounted) {
  const model::ModelFiles files = OpenTiny(Uneven(DType::kQ4_1));
  const plan::ShardPlan plan = *plan::MakeShardPlan(files.config, 3, 2);
  for (const plan::RankShard& shard : plan.ranks) {
    const WeightLayout layout = *MakeLayout(files.config, *files.checkpoint, shard, Ref(), false);
    Region region(layout.region_bytes);
    std::atomic<int64_t> progress{0};
    const int64_t before = files.checkpoint->bytes_read();
    ASSERT_TRUE(LoadShard(*files.checkpoint, layout, Ref(), region.bytes(), 2, &progress, nullptr).ok());
    EXPECT_EQ(progress, layout.read_bytes);
    EXPECT_EQ(files.checkpoint->bytes_read() - before, layout.read_bytes);
  }
}

// The null backend computes with no weight: what it keeps and reads is what the decoder itself wants.
TEST(Load, NullKeepsAndReadsNoMatrix) {
  const model::ModelFiles files = OpenTiny({.matrices = DType::kF8E4M3});
  const ops::OpTable& null = **ops::FindOpTable("null");
  const plan::RankShard shard = plan::MakeShardPlan(files.config, 1, 1)->ranks[0];
  const WeightLayout layout = *MakeLayout(files.config, *files.checkpoint, shard, null, false);
  const int64_t norms = 2 * files.config.layers + 1;
  EXPECT_EQ(layout.read_bytes, norms * files.config.hidden * static_cast<int64_t>(sizeof(float)));
  Region region(layout.region_bytes);
  const int64_t before = files.checkpoint->bytes_read();
  ASSERT_TRUE(LoadShard(*files.checkpoint, layout, null, region.bytes(), 2, nullptr, nullptr).ok());
  EXPECT_EQ(files.checkpoint->bytes_read() - before, layout.read_bytes);
  const auto weights = Bind(region.bytes(), files.config, shard, null);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(weights->layers[1].down.k, files.config.ffn);
  EXPECT_EQ(weights->layers[1].down.row_scale, nullptr);
  EXPECT_NE(weights->final_norm.weight, nullptr);
}

TEST(Load, CancelledOrFailedLoadsLeaveNothingToBind) {
  const testing::TempDir dir;
  testing::WriteTinyGguf({}, dir / "m.gguf");
  const auto files = model::OpenModel(dir / "m.gguf");
  ASSERT_TRUE(files.ok());
  const plan::RankShard shard = plan::MakeShardPlan(files->config, 1, 1)->ranks[0];
  const WeightLayout layout = *MakeLayout(files->config, *files->checkpoint, shard, Ref(), false);
  Region region(layout.region_bytes);
  ASSERT_TRUE(LoadShard(*files->checkpoint, layout, Ref(), region.bytes(), 2, nullptr, nullptr).ok());
  ASSERT_TRUE(Bind(region.bytes(), files->config, shard, Ref()).ok());
  const std::atomic<bool> cancelled{true};
  EXPECT_EQ(LoadShard(*files->checkpoint, layout, Ref(), region.bytes(), 2, nullptr, &cancelled).code(),
            absl::StatusCode::kCancelled);
  EXPECT_EQ(Bind(region.bytes(), files->config, shard, Ref()).status().code(), absl::StatusCode::kDataLoss);
  std::filesystem::resize_file(dir / "m.gguf", std::filesystem::file_size(dir / "m.gguf") / 2);
  const absl::Status truncated = LoadShard(*files->checkpoint, layout, Ref(), region.bytes(), 2, nullptr, nullptr);
  EXPECT_EQ(truncated.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(truncated.message().find(dir / "m.gguf"), absl::string_view::npos) << truncated;
  EXPECT_FALSE(Bind(region.bytes(), files->config, shard, Ref()).ok());
  EXPECT_FALSE(LoadShard(*files->checkpoint, layout, Ref(), region.bytes().first(64), 2, nullptr, nullptr).ok());
}

// Bytes that the plan gives to several ranks, beyond the first: what reading may cost over the file itself.
int64_t ReplicatedBytes(const model::ModelFiles& files, const plan::ShardPlan& plan) {
  int64_t extra = 0;
  for (const model::TensorSpec& spec : model::TensorTable(files.config)) {
    const model::TensorEntry* t = files.checkpoint->Find(spec.name);
    const int64_t rows = spec.shape.size() == 1 ? 1 : spec.shape[0];
    std::vector<int64_t> held(static_cast<size_t>(rows), 0);  // columns over all ranks
    for (const plan::RankShard& shard : plan.ranks) {
      const plan::TensorSlice s = plan::SliceOf(files.config, shard, spec);
      for (int r = s.rows.begin; r < s.rows.end; ++r) held[static_cast<size_t>(r)] += s.columns.size();
    }
    const auto row_bytes = static_cast<int64_t>(RowBytes(t->dtype, t->shape.back()));
    for (const int64_t columns : held) extra += (columns - t->shape.back()) * row_bytes / t->shape.back();
  }
  return extra;
}

TEST(Load, RealModelReadsOnlyItsBytes) {
  const std::string path = DefaultModelPath();
  if (path.empty()) FAIL() << "the default model is missing: run `make model`";
  for (int tp = 1; tp <= 4; ++tp) {
    for (int pp = 1; pp <= 3; ++pp) {
      const auto files = model::OpenModel(path);
      ASSERT_TRUE(files.ok()) << files.status();
      const plan::ShardPlan plan = *plan::MakeShardPlan(files->config, tp, pp);
      for (const plan::RankShard& shard : plan.ranks) {
        const WeightLayout layout = *MakeLayout(files->config, *files->checkpoint, shard, Ref(), false);
        Region region(layout.region_bytes);
        ASSERT_TRUE(LoadShard(*files->checkpoint, layout, Ref(), region.bytes(), 2, nullptr, nullptr).ok());
      }
      const int64_t allowed = files->checkpoint->file_bytes() + ReplicatedBytes(*files, plan);
      EXPECT_LE(files->checkpoint->bytes_read(), allowed * 102 / 100) << tp << "x" << pp;
      EXPECT_GE(files->checkpoint->bytes_read(), allowed * 97 / 100) << tp << "x" << pp << ": something was not read";
    }
  }
}

}  // namespace
}  // namespace shoal::weights
