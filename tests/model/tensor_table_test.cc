#include "common/model/tensor_table.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "common/model/arrange.h"
#include "common/model/families.h"
#include "common/model/safetensors.h"
#include "tests/testing/quantise.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace shoal::model {
namespace {

using testing::RawTensor;
using testing::TinyModel;

ModelConfig TinyConfig(const TinyModel& m) { return *ConfigFromJson(testing::TinyConfigJson(m), ""); }

std::map<std::string, RawTensor> Tensors(const TinyModel& m) {
  std::map<std::string, RawTensor> out;
  for (const testing::TinyTensor& t : testing::TinyTensors(m)) {
    out[t.hf_name] = {"F32", t.shape, testing::Stored(DType::kF32, t.values)};
  }
  return out;
}

absl::Status Check(const TinyModel& m, const std::map<std::string, RawTensor>& tensors) {
  const testing::TempDir dir;
  testing::WriteFile(dir / "model.safetensors", testing::SafetensorsFile(tensors));
  const auto file = OpenSafetensors(dir.path());
  if (!file.ok()) return file.status();
  const ModelConfig config = TinyConfig(m);
  const auto arranged = Arrange(config, NamesOf(config.architecture), *file);
  return arranged.ok() ? CheckTensors(config, **arranged) : arranged.status();
}

TEST(TensorTable, HasOurNamesAndShapes) {
  for (const bool tied : {true, false}) {
    TinyModel m;
    m.tied = tied;
    const std::vector<testing::TinyTensor> written = testing::TinyTensors(m);
    const std::vector<TensorSpec> table = TensorTable(TinyConfig(m));
    ASSERT_EQ(table.size(), written.size());
    for (const testing::TinyTensor& t : written) {
      const auto row = std::find_if(table.begin(), table.end(), [&](const TensorSpec& s) { return s.name == t.name; });
      ASSERT_NE(row, table.end()) << t.name;
      EXPECT_EQ(row->shape, t.shape);
    }
    EXPECT_EQ(table.front().role, Role::kEmbedding);
    EXPECT_EQ(table.back().role, tied ? Role::kFinalNorm : Role::kHead);
    EXPECT_EQ(table[11].name, "layers.1.attn.q");
    EXPECT_EQ(table[11].layer, 1);
  }
}

TEST(TensorTable, HasWhatTheConfigSays) {
  ModelConfig c = TinyConfig({});
  const auto has = [&](Role role) {
    const std::vector<TensorSpec> table = TensorTable(c);
    return std::count_if(table.begin(), table.end(), [&](const TensorSpec& s) { return s.role == role; });
  };
  EXPECT_EQ(has(Role::kQBias) + has(Role::kRouter) + has(Role::kPositions) + has(Role::kFfnPostNorm), 0);
  c.kinds = {{.has_experts = true}, {}};
  c.experts = {.count = 3, .used = 2, .ffn = 32, .renormalise = true};
  c.qkv_bias = c.learned_positions = c.qk_norm = true;
  c.norm_place = NormPlace::kAfter;
  EXPECT_TRUE(CheckConfig(c).empty());
  EXPECT_EQ(has(Role::kRouter), 1);
  EXPECT_EQ(has(Role::kExpertDown), 3);
  EXPECT_EQ(has(Role::kDown), 1);
  EXPECT_EQ(has(Role::kKBias), 2);
  EXPECT_EQ(has(Role::kQNorm), 2);
  EXPECT_EQ(has(Role::kPositions), 1);
  EXPECT_EQ(has(Role::kAttnNorm), 0);
  EXPECT_EQ(has(Role::kAttnPostNorm), 2);
  c.task = Task::kEmbed;
  c.tied_embeddings = false;
  EXPECT_EQ(has(Role::kHead), 0);
  std::string names;
  for (const TensorSpec& s : TensorTable(c)) {
    if (s.expert == 2) names += s.name + " ";
  }
  EXPECT_EQ(names, "layers.0.experts.2.gate layers.0.experts.2.up layers.0.experts.2.down ");
}

TEST(TensorTable, GoodModelsPass) {
  for (const bool tied : {true, false}) {
    TinyModel m;
    m.tied = tied;
    EXPECT_TRUE(Check(m, Tensors(m)).ok()) << Check(m, Tensors(m));
  }
}

TEST(TensorTable, EveryProblemIsListed) {
  const TinyModel m;
  auto tensors = Tensors(m);
  tensors.erase("model.norm.weight");
  tensors.erase("model.layers.1.mlp.up_proj.weight");
  tensors["model.layers.0.self_attn.k_proj.weight"] = {"F32", {32, 64}, std::string(32 * 64 * 4, '\0')};
  tensors["model.layers.0.self_attn.q_proj.bias"] = {"F32", {128}, std::string(128 * 4, '\0')};
  const absl::Status s = Check(m, tensors);
  ASSERT_EQ(s.code(), absl::StatusCode::kInvalidArgument);
  for (const char* part : {"4 problems", "model.norm.weight (final_norm) is missing", "layers.1.mlp.up_proj",
                           "k_proj.weight has shape [32, 64], the config needs [64, 64]", "q_proj.bias is not known"}) {
    EXPECT_NE(s.message().find(part), absl::string_view::npos) << part << " in " << s;
  }
}

TEST(TensorTable, ScalesOfBytesAreChecked) {
  const TinyModel m;
  auto tensors = Tensors(m);
  const std::string q = "model.layers.0.self_attn.q_proj", k = "model.layers.0.self_attn.k_proj",
                    v = "model.layers.0.self_attn.v_proj", o = "model.layers.1.self_attn.o_proj";
  const auto zeros = [](size_t n) { return std::string(n, '\0'); };
  tensors[q + ".weight"] = {"F8_E4M3", {128, 64}, zeros(128 * 64)};
  EXPECT_TRUE(Check(m, tensors).ok()) << "none";
  for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{{}, {1}, {128}, {128, 1}}) {
    tensors[q + ".weight_scale"] = {"F32", shape, zeros(shape.empty() || shape[0] == 1 ? 4 : 512)};
    EXPECT_TRUE(Check(m, tensors).ok()) << Check(m, tensors);
  }
  tensors[q + ".input_scale"] = {"F32", {}, zeros(4)};
  EXPECT_TRUE(Check(m, tensors).ok()) << Check(m, tensors);
  tensors[q + ".weight_scale"] = {"F32", {1, 128}, zeros(512)};
  tensors[k + ".weight"] = {"I8", {64, 64}, zeros(64 * 64)};
  tensors[k + ".weight_scale"] = {"I8", {64}, zeros(64)};
  tensors[o + ".weight"] = {"F8_E4M3", {64, 128}, zeros(64 * 128)};
  tensors[o + ".weight_scale_inv"] = {"F32", {1, 1}, zeros(4)};
  tensors[v + ".weight_scale"] = {"F32", {64}, zeros(256)};
  tensors[v + ".input_scale"] = {"F32", {}, zeros(4)};
  tensors["model.norm.weight"] = {"F8_E4M3", {64}, zeros(64)};
  const absl::Status s = Check(m, tensors);
  for (const std::string& part :
       {std::string("6 problems"), q + ".weight_scale has shape [1, 128], a matrix of shape [128, 64] has one",
        k + ".weight_scale is of type int8", o + ".weight_scale_inv has scales of blocks [1, 1]",
        v + ".weight_scale is not known", v + ".input_scale is not known",
        std::string("model.norm.weight is of type fp8; a norm or a bias is")}) {
    EXPECT_NE(s.message().find(part), absl::string_view::npos) << part << " in " << s;
  }
}

TEST(TensorTable, QuantisedNormsAreRefused) {
  TinyModel m;
  m.hidden = 64;
  testing::GgufWriter w;
  w.Tensor("output_norm.weight", {64}, 8, testing::Stored(DType::kQ8_0, std::vector<float>(64, 1.0f)));
  const testing::TempDir dir;
  testing::WriteFile(dir / "m.gguf", w.Build().bytes);
  const auto file = GgufFile::Open(dir / "m.gguf");
  ASSERT_TRUE(file.ok());
  const absl::Status s = Arrange(TinyConfig(m), NamesOf("llama"), *file).status();
  EXPECT_NE(s.message().find("output_norm.weight is of type q8_0"), absl::string_view::npos) << s;
}

TEST(TensorTable, HarmlessLeftoversAreIgnored) {
  TinyModel m;
  auto tensors = Tensors(m);
  tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"];
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {"F32", {16}, std::string(64, '\0')};
  EXPECT_TRUE(Check(m, tensors).ok()) << Check(m, tensors);
  m.tied = false;
  EXPECT_TRUE(Check(m, tensors).ok()) << "now it is the head";
}

}  // namespace
}  // namespace shoal::model
