#include "common/model/arrange.h"

#include <gtest/gtest.h>

#include <cstring>

#include "boost/json.hpp"
#include "common/base/rng.h"
#include "common/model/families.h"
#include "common/model/safetensors.h"
#include "tests/testing/family_configs.h"
#include "tests/testing/quantise.h"
#include "tests/testing/stored_model.h"
#include "tests/testing/temp_dir.h"

namespace shoal::model {
namespace {

using testing::RawTensor;
using Raw = std::map<std::string, RawTensor>;

// `file` may be kept open by the caller's directory.
absl::StatusOr<std::shared_ptr<const Checkpoint>> Open(const ModelConfig& config, const Raw& tensors,
                                                       const std::string& directory) {
  testing::WriteFile(directory + "/model.safetensors", testing::SafetensorsFile(tensors));
  const StoredNames names = NamesOf(config.architecture);
  auto file = OpenSafetensors(directory, [&](std::string_view name) { return names.IsUnused(name); });
  if (!file.ok()) return file.status();
  return Arrange(config, names, *file);
}

std::vector<float> Values(const Checkpoint& c, const TensorEntry& t) {
  std::vector<std::byte> bytes(static_cast<size_t>(t.bytes));
  EXPECT_TRUE(c.Read(t, 0, bytes).ok()) << t.name;
  int64_t elements = 1;
  for (const int64_t n : t.shape) elements *= n;
  std::vector<float> out(static_cast<size_t>(elements));
  DequantiseRow(t.dtype, bytes.data(), elements, out.data());
  return out;
}

void ExpectArranged(const ModelConfig& config, const Checkpoint& arranged) {
  const auto wanted = testing::ExactValues(config);
  const std::vector<TensorSpec> table = TensorTable(config);
  ASSERT_EQ(arranged.tensors().size(), table.size());
  for (size_t i = 0; i < table.size(); ++i) {
    const TensorEntry& t = arranged.tensors()[i];
    EXPECT_EQ(t.name, table[i].name);
    EXPECT_EQ(t.shape, table[i].shape);
    EXPECT_EQ(Values(arranged, t), wanted.at(t.name)) << t.name;
  }
  EXPECT_TRUE(CheckTensors(config, arranged).ok()) << CheckTensors(config, arranged);
}

TEST(Arrange, GivesEveryFamilyOurNamesShapesAndOrder) {
  for (const auto& [family, text] : testing::TinyFamilyConfigs()) {
    const auto config = ConfigFromJson(text, "");
    ASSERT_TRUE(config.ok()) << family << ": " << config.status();
    for (const DType type : {DType::kF32, DType::kBF16}) {
      const testing::TempDir dir;
      const auto stored = testing::StoredTensors(*config, NamesOf(config->architecture));
      const auto arranged = Open(*config, testing::RawTensors(stored, type), dir.path());
      ASSERT_TRUE(arranged.ok()) << family << ": " << arranged.status();
      ExpectArranged(*config, **arranged);
    }
  }
}

TEST(Arrange, GivesGgufFilesTheSame) {
  for (const char* name : {"gpt2", "qwen3moe", "gemma3", "phi3", "bert", "grok", "llama"}) {
    for (const auto& [family, text] : testing::TinyFamilyConfigs()) {
      ModelConfig config = *ConfigFromJson(text, "");
      config.architecture = name;
      const StoredNames names = NamesOf(name);
      const bool is_of = (family == name) || (family == "qwen3_moe" && std::string(name) == "qwen3moe") ||
                         (family == "grok1" && std::string(name) == "grok") ||
                         (family == "mixtral" && std::string(name) == "llama");
      if (!is_of) continue;
      testing::GgufWriter writer;
      writer.String("general.architecture", name);
      testing::AddTensors(testing::StoredTensors(config, names), &writer);
      const testing::TempDir dir;
      testing::WriteFile(dir / "m.gguf", writer.Build().bytes);
      const auto file = GgufFile::Open(dir / "m.gguf");
      ASSERT_TRUE(file.ok()) << file.status();
      const auto arranged = Arrange(config, names, *file);
      ASSERT_TRUE(arranged.ok()) << name << ": " << arranged.status();
      ExpectArranged(config, **arranged);
    }
  }
}

// Every range and every block of what is transposed, fused or stacked is that part of the whole.
TEST(Arrange, AnyRangeAndAnyBlockIsThatPartOfTheWhole) {
  const ModelConfig config = *ConfigFromJson(testing::TinyFamilyConfigs().at("gpt2"), "");
  const testing::TempDir dir;
  const auto stored = testing::StoredTensors(config, NamesOf(config.architecture));
  const auto arranged = Open(config, testing::RawTensors(stored, DType::kF32), dir.path());
  ASSERT_TRUE(arranged.ok()) << arranged.status();
  for (const char* name : {"layers.1.attn.k", "layers.1.attn.k.bias", "layers.0.ffn.down", "layers.0.ffn.up"}) {
    const TensorEntry& t = *(*arranged)->Find(name);
    std::vector<std::byte> whole(static_cast<size_t>(t.bytes));
    ASSERT_TRUE((*arranged)->Read(t, 0, whole).ok());
    for (uint64_t i = 0; i < 60; ++i) {
      const auto random = [&](uint64_t draw, int64_t limit) {
        return static_cast<int64_t>(RandomBits(3, draw, i) % static_cast<uint64_t>(limit));
      };
      const int64_t begin = random(1, t.bytes), count = random(2, t.bytes - begin + 1);
      std::vector<std::byte> part(static_cast<size_t>(count));
      ASSERT_TRUE((*arranged)->Read(t, begin, part).ok());
      ASSERT_EQ(std::memcmp(part.data(), whole.data() + begin, part.size()), 0) << name << " " << begin;
      const bool vector = t.shape.size() == 1;
      const int64_t rows = vector ? 1 : t.shape[0], columns = t.shape.back();
      TensorBlock b = {.row = random(3, rows), .rows = 0, .column = random(4, columns), .columns = 0};
      b.rows = 1 + random(5, rows - b.row);
      b.columns = 1 + random(6, columns - b.column);
      std::vector<std::byte> block(static_cast<size_t>(b.rows * b.columns * 4));
      ASSERT_TRUE((*arranged)->ReadBlock(t, b, block).ok());
      for (int64_t r = 0; r < b.rows; ++r) {
        ASSERT_EQ(std::memcmp(block.data() + r * b.columns * 4, whole.data() + ((b.row + r) * columns + b.column) * 4,
                              static_cast<size_t>(b.columns * 4)),
                  0)
            << name;
      }
    }
    std::byte one[1];
    EXPECT_FALSE((*arranged)->Read(t, t.bytes, one).ok());
  }
}

// What is transposed is read once, whichever way it is cut.
TEST(Arrange, TransposedTensorsAreReadAboutOnce) {
  const ModelConfig config = *ConfigFromJson(testing::TinyFamilyConfigs().at("gpt2"), "");
  const testing::TempDir dir;
  const auto stored = testing::StoredTensors(config, NamesOf(config.architecture));
  const auto arranged = Open(config, testing::RawTensors(stored, DType::kF32), dir.path());
  ASSERT_TRUE(arranged.ok()) << arranged.status();
  const TensorEntry& t = *(*arranged)->Find("layers.0.ffn.down");
  const int64_t rows = t.shape[0], columns = t.shape[1], before = (*arranged)->bytes_read();
  for (const int64_t half : {int64_t{0}, columns / 2}) {
    std::vector<std::byte> block(static_cast<size_t>(t.bytes / 2));
    ASSERT_TRUE((*arranged)->ReadBlock(t, {0, rows, half, columns / 2}, block).ok());
  }
  EXPECT_EQ((*arranged)->bytes_read() - before, t.bytes) << "by columns";
  for (int64_t row = 0; row < rows; row += rows / 4) {
    std::vector<std::byte> block(static_cast<size_t>(t.bytes / 4));
    ASSERT_TRUE((*arranged)->ReadBlock(t, {row, rows / 4, 0, columns}, block).ok());
  }
  EXPECT_EQ((*arranged)->bytes_read() - before, 2 * t.bytes) << "by rows";
}

TEST(Arrange, EveryProblemIsListedByItsNameInTheFile) {
  const ModelConfig config = *ConfigFromJson(testing::TinyFamilyConfigs().at("phi3"), "");
  const auto stored = testing::StoredTensors(config, NamesOf(config.architecture));
  Raw tensors = testing::RawTensors(stored, DType::kF32);
  const std::string at = "model.layers.1.";
  tensors.erase("model.norm.weight");
  tensors.erase(at + "mlp.gate_up_proj.weight");
  tensors[at + "self_attn.qkv_proj.weight"] = {"F32", {32, 64}, std::string(32 * 64 * 4, '\0')};
  tensors[at + "input_layernorm.weight"] = {"I8", {64}, std::string(64, '\0')};
  tensors["model.layers.0.self_attn.q_norm.weight"] = {"F32", {16}, std::string(64, '\0')};
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {"F32", {16}, std::string(64, '\0')};
  const testing::TempDir dir;
  const absl::Status s = Open(config, tensors, dir.path()).status();
  ASSERT_EQ(s.code(), absl::StatusCode::kInvalidArgument);
  for (const std::string& part :
       {std::string("model.norm.weight (final_norm) is missing"),
        at + "mlp.gate_up_proj.weight (layers.1.ffn.gate) is missing", at + "mlp.gate_up_proj.weight (layers.1.ffn.up)",
        at + "self_attn.qkv_proj.weight has shape [32, 64], the config needs [128, 64]",
        at + "input_layernorm.weight is of type int8", std::string("layers.0.self_attn.q_norm.weight is not known")}) {
    EXPECT_NE(s.message().find(part), absl::string_view::npos) << part << " in " << s;
  }
  EXPECT_EQ(s.message().find("inv_freq"), absl::string_view::npos) << s;
}

// fp8 with a scale for each row of what is fused, or one for all.
TEST(Arrange, ScalesGoAlongWithTheirRows) {
  const ModelConfig config = *ConfigFromJson(testing::TinyFamilyConfigs().at("phi3"), "");
  const auto stored = testing::StoredTensors(config, NamesOf(config.architecture));
  Raw tensors = testing::RawTensors(stored, DType::kF32);
  const std::string qkv = "model.layers.0.self_attn.qkv_proj.weight", up = "model.layers.0.mlp.gate_up_proj.weight";
  std::vector<float> scales(128);
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<float>(i);
  tensors[qkv] = {"F8_E4M3", {128, 64}, std::string(128 * 64, '\1')};
  tensors[qkv + "_scale"] = {"F32", {128, 1}, testing::Stored(DType::kF32, scales)};
  tensors[up] = {"F8_E4M3", {192, 64}, std::string(192 * 64, '\1')};
  tensors[up + "_scale"] = {"F32", {}, testing::Stored(DType::kF32, std::vector<float>{3})};
  const testing::TempDir dir;
  const auto arranged = Open(config, tensors, dir.path());
  ASSERT_TRUE(arranged.ok()) << arranged.status();
  const auto values = [&](const char* name) { return Values(**arranged, *(*arranged)->Find(name)); };
  EXPECT_EQ(values("layers.0.attn.q_scale"), std::vector<float>(scales.begin(), scales.begin() + 64));
  EXPECT_EQ(values("layers.0.attn.k_scale"), std::vector<float>(scales.begin() + 64, scales.begin() + 96));
  EXPECT_EQ(values("layers.0.attn.v_scale"), std::vector<float>(scales.begin() + 96, scales.end()));
  EXPECT_EQ(values("layers.0.ffn.up_scale"), std::vector<float>{3});
  EXPECT_TRUE(CheckTensors(config, **arranged).ok()) << CheckTensors(config, **arranged);
}

TEST(Arrange, PrefixesAndLeftoversOfPublishedFilesArePassedOver) {
  for (const auto& [family, prefix] :
       {std::pair{"gpt2", "transformer."}, std::pair{"bert", "bert."}, std::pair{"gemma3", "language_model.model."}}) {
    const ModelConfig config = *ConfigFromJson(testing::TinyFamilyConfigs().at(family), "");
    const StoredNames names = NamesOf(config.architecture);
    Raw tensors;
    for (auto& [name, tensor] : testing::RawTensors(testing::StoredTensors(config, names), DType::kF32)) {
      const size_t own = std::strlen(names.prefixes[0]);
      tensors[prefix + name.substr(own)] = tensor;
    }
    tensors["h.0.attn.bias"] = {"BOOL", {1, 1, 4, 4}, std::string(16, '\1')};
    if (std::string(family) != "gpt2") tensors.erase("h.0.attn.bias");
    if (std::string(family) == "bert") {
      tensors["bert.embeddings.position_ids"] = {"I64", {1, 4}, std::string(32, '\1')};
      tensors["bert.pooler.dense.weight"] = {"F32", {1}, std::string(4, '\1')};
      tensors["cls.predictions.bias"] = {"F32", {1}, std::string(4, '\1')};
    }
    if (std::string(family) == "gemma3") tensors["vision_tower.x"] = {"F32", {1}, std::string(4, '\1')};
    const testing::TempDir dir;
    const auto arranged = Open(config, tensors, dir.path());
    ASSERT_TRUE(arranged.ok()) << family << ": " << arranged.status();
    ExpectArranged(config, **arranged);
  }
}

}  // namespace
}  // namespace shoal::model
