// Weights of every family, from files as the family stores them to the decoder's pointers, in uneven layouts.
#include "common/model/families.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "common/model/quantise.h"
#include "kernels/ops/backends.h"
#include "tests/testing/family_configs.h"
#include "tests/testing/stored_model.h"
#include "tests/testing/temp_dir.h"
#include "tests/weights/shards.h"
#include "worker/weights/region.h"

namespace shoal::weights {
namespace {

namespace fs = std::filesystem;

const ops::OpTable& Ref() { return **ops::FindOpTable("ref"); }

// The files stay open behind it.
model::ModelFiles Open(const std::string& family, DType type = DType::kF32) {
  const std::string text = testing::TinyFamilyConfigs().at(family);
  const model::ModelConfig config = *model::ConfigFromJson(text, "");
  const auto stored = testing::StoredTensors(config, model::NamesOf(config.architecture));
  const testing::TempDir dir;
  testing::WriteFile(dir / "config.json", text);
  testing::WriteFile(dir / "model.safetensors", testing::SafetensorsFile(testing::RawTensors(stored, type)));
  auto files = model::OpenModel(dir.path());
  EXPECT_TRUE(files.ok()) << family << ": " << files.status();
  return *std::move(files);
}

struct Shape {
  int tp, pp;
};
constexpr Shape kShapes[] = {{1, 1}, {2, 1}, {1, 2}, {2, 2}};

// The same tensors from every layout, each rank reading no more than was promised.
std::map<std::string, std::vector<std::byte>> LoadInAllLayouts(const model::ModelFiles& files,
                                                               const model::Checkpoint& checkpoint) {
  std::map<std::string, std::vector<std::byte>> whole;
  for (const Shape s : kShapes) {
    int conflicts = 0;
    const auto ranks = LoadAll(files.config, checkpoint, Ref(), s.tp, s.pp);
    const auto tensors = Reassemble(files.config, ranks, &conflicts);
    EXPECT_EQ(conflicts, 0) << s.tp << "x" << s.pp;
    if (whole.empty()) whole = tensors;
    EXPECT_TRUE(whole == tensors) << s.tp << "x" << s.pp;
  }
  return whole;
}

TEST(FamilyWeights, AreTheValuesOfTheFilesInEveryLayout) {
  for (const auto& [family, text] : testing::TinyFamilyConfigs()) {
    SCOPED_TRACE(family);
    const model::ModelFiles files = Open(family);
    const auto loaded = LoadInAllLayouts(files, *files.checkpoint);
    for (const auto& [name, values] : testing::ExactValues(files.config)) {
      const std::vector<std::byte>& bytes = loaded.at(name);
      ASSERT_EQ(bytes.size(), values.size() * sizeof(float)) << name;
      EXPECT_EQ(std::memcmp(bytes.data(), values.data(), bytes.size()), 0) << name;
    }
  }
}

// What is quantised at load: experts and what is transposed or fused, but no router, bias or norm.
TEST(FamilyWeights, QuantisedAtLoadAreTheSameInEveryLayout) {
  for (const char* family : {"gpt2", "phi3", "qwen3_moe", "grok1"}) {
    for (const DType type : {DType::kF8E4M3, DType::kI8, DType::kI4}) {
      SCOPED_TRACE(std::string(family) + " as " + std::string(Info(type).name));
      const model::ModelFiles files = Open(family, DType::kBF16);
      const auto quantised = model::QuantiseAtLoad(files.checkpoint, files.config, type);
      const auto loaded = LoadInAllLayouts(files, *quantised);
      const model::TensorIndex index(*quantised);
      for (const model::TensorSpec& spec : model::TensorTable(files.config)) {
        EXPECT_EQ(index.Find(spec.name)->dtype == type, spec.is_layer_matrix()) << spec.name;
        EXPECT_EQ(loaded.contains(spec.name + "_scale"), spec.is_layer_matrix() && IsByte(type)) << spec.name;
      }
      EXPECT_EQ(index.Find("layers.0.attn.q")->dtype, type);
    }
  }
}

TEST(FamilyWeights, DummiesAreTheSameInEveryLayout) {
  for (const char* family : {"bert", "gemma3", "mixtral"}) {
    SCOPED_TRACE(family);
    const model::ModelFiles files = Open(family);
    EXPECT_FALSE(LoadInAllLayouts(files, *model::MakeDummyCheckpoint(files.checkpoint, 5)).empty());
  }
}

TEST(FamilyWeights, ExpertsLieAtEqualDistances) {
  const model::ModelFiles files = Open("mixtral");
  const auto fp8 = model::QuantiseAtLoad(files.checkpoint, files.config, DType::kF8E4M3);
  const auto ranks = LoadAll(files.config, *fp8, Ref(), 2, 1);
  for (const LoadedRank& rank : ranks) {
    const LayerWeights& w = rank.weights.layers[1];
    EXPECT_EQ(w.router.n, 4);
    EXPECT_EQ(w.gate.data, nullptr) << "in place of a network of its own";
    EXPECT_EQ(w.expert_gate.first.n, rank.shard.expert_ffn.size());
    EXPECT_EQ(w.expert_down.first.k, rank.shard.expert_ffn.size());
    EXPECT_GE(w.expert_up.stride, w.expert_up.first.n * w.expert_up.first.k);
    EXPECT_NE(w.expert_up.first.row_scale, nullptr);
  }
  EXPECT_NE(ranks[0].shard.expert_ffn.size(), ranks[1].shard.expert_ffn.size());
}

TEST(FamilyWeights, WhatIsAddedToASumIsHeldOnce) {
  const model::ModelFiles files = Open("gpt2");
  const auto ranks = LoadAll(files.config, *files.checkpoint, Ref(), 2, 1);
  EXPECT_NE(ranks[0].weights.layers[0].o.bias, nullptr);
  EXPECT_NE(ranks[0].weights.layers[0].down.bias, nullptr);
  EXPECT_EQ(ranks[1].weights.layers[0].o.bias, nullptr);
  EXPECT_EQ(ranks[1].weights.layers[0].down.bias, nullptr);
  EXPECT_NE(ranks[1].weights.layers[0].up.bias, nullptr);
  EXPECT_EQ(ranks[1].weights.positions.n, 32);
}

// A region whose experts do not lie as its first two say.
TEST(FamilyWeights, ExpertsOutOfPlaceAreNotBound) {
  const model::ModelFiles files = Open("mixtral");
  auto ranks = LoadAll(files.config, *files.checkpoint, Ref(), 1, 1);
  const std::span<std::byte> region = ranks[0].region->bytes();
  RegionHeader header;
  std::memcpy(&header, region.data(), sizeof(header));
  int moved = 0;
  for (uint32_t i = 0; i < header.entries; ++i) {
    std::byte* const at = region.data() + sizeof(header) + i * sizeof(RegionEntry);
    RegionEntry entry;
    std::memcpy(&entry, at, sizeof(entry));
    if (entry.role != static_cast<uint8_t>(model::Role::kExpertUp) || entry.expert != 3 || entry.layer != 0) continue;
    entry.offset -= 64;
    std::memcpy(at, &entry, sizeof(entry));
    ++moved;
  }
  ASSERT_EQ(moved, 1);
  const absl::Status s = Bind(region, files.config, ranks[0].shard, Ref()).status();
  EXPECT_EQ(s.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(s.message().find("layers.0.experts.3.up"), absl::string_view::npos) << s;
}

// The checkpoints that transformers itself has computed with.
TEST(FamilyWeights, GoldenCheckpointsAreOpenedAndUsedUp) {
  const char* build = std::getenv("SHOAL_BUILD_DIR");
  const fs::path families = fs::path(build == nullptr ? "build" : build) / "families";
  ASSERT_TRUE(fs::exists(families)) << families << " is written by tests/golden/families_weights.py";
  int opened = 0;
  for (const fs::directory_entry& family : fs::directory_iterator(families)) {
    std::vector<fs::path> models;
    if (fs::exists(family.path() / "config.json")) models.push_back(family.path());
    for (const fs::directory_entry& file : fs::directory_iterator(family.path())) {
      if (file.path().extension() == ".gguf") models.push_back(file.path());
    }
    for (const fs::path& path : models) {
      SCOPED_TRACE(path);
      const auto files = model::OpenModel(path.string());
      ASSERT_TRUE(files.ok()) << files.status();
      EXPECT_FALSE(LoadInAllLayouts(*files, *files->checkpoint).empty());
      ++opened;
    }
  }
  EXPECT_GT(opened, 0);
}

}  // namespace
}  // namespace shoal::weights
