#include "common/model/families.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "boost/json.hpp"
#include "tests/testing/family_configs.h"
#include "tests/testing/quantise.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace shoal::model {
namespace {

namespace json = boost::json;
using testing::TinyModel;

// The tiny model's config.json with some keys set to other values.
std::string With(std::initializer_list<std::pair<const char*, json::value>> changes) {
  json::object o = json::parse(testing::TinyConfigJson(TinyModel())).as_object();
  for (const auto& [key, value] : changes) o[key] = value;
  return json::serialize(o);
}

std::string Refusal(const std::string& config) {
  const auto c = ConfigFromJson(config, "");
  return c.ok() ? "" : std::string(c.status().message());
}

absl::StatusOr<ModelConfig> FromGguf(const testing::GgufWriter& writer) {
  const testing::TempDir dir;
  testing::WriteFile(dir / "m.gguf", writer.Build().bytes);
  const auto file = GgufFile::Open(dir / "m.gguf");
  return file.ok() ? ConfigFromGguf(**file) : file.status();
}

TEST(Families, ReadsConfigJson) {
  const auto c = ConfigFromJson(With({}), R"({"eos_token_id": [2, 0]})");
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->architecture, "LlamaForCausalLM");
  EXPECT_EQ(c->layers, 2);
  EXPECT_EQ(c->hidden, 64);
  EXPECT_EQ(c->heads, 4);
  EXPECT_EQ(c->kv_heads, 2);
  EXPECT_EQ(c->head_dim, 32);
  EXPECT_EQ(c->ffn, 96);
  EXPECT_EQ(c->vocab, 288);
  EXPECT_EQ(c->max_position, 256);
  EXPECT_FLOAT_EQ(c->norm_eps, 1e-5f);
  EXPECT_FLOAT_EQ(c->attention_scale, 1 / std::sqrt(32.0f));
  EXPECT_TRUE(c->tied_embeddings);
  EXPECT_EQ(c->rope.dim, 32);
  EXPECT_FALSE(c->rope.interleaved);
  EXPECT_EQ(c->bos_token, 1);
  EXPECT_EQ(c->eos_tokens, (std::vector<int32_t>{2, 0}));
}

TEST(Families, DefaultsAreTransformers) {
  json::object o = json::parse(With({})).as_object();
  for (const char* key : {"num_key_value_heads", "rope_theta", "tie_word_embeddings", "bos_token_id", "eos_token_id",
                          "attention_bias", "hidden_act", "head_dim"}) {
    o.erase(key);
  }
  const auto c = ConfigFromJson(json::serialize(o), "");
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->kv_heads, 4);
  EXPECT_EQ(c->head_dim, 16);
  EXPECT_EQ(c->rope.theta, 10000.0);
  EXPECT_FALSE(c->tied_embeddings);
  EXPECT_EQ(c->bos_token, -1);
  EXPECT_TRUE(c->eos_tokens.empty());
}

TEST(Families, ReadsRopeScalingInEverySpelling) {
  const json::object llama3 = {{"rope_type", "llama3"},
                               {"factor", 32.0},
                               {"low_freq_factor", 1.0},
                               {"high_freq_factor", 4.0},
                               {"original_max_position_embeddings", 8192}};
  const auto scaled = ConfigFromJson(With({{"rope_theta", 500000.0}, {"rope_scaling", llama3}}), "");
  ASSERT_TRUE(scaled.ok()) << scaled.status();
  EXPECT_EQ(scaled->rope.scaling, RopeScaling::kLlama3);
  EXPECT_EQ(scaled->rope.factor, 32.0);
  EXPECT_EQ(scaled->rope.theta, 500000.0);
  EXPECT_EQ(scaled->rope.original_max_position, 8192);
  const auto linear = ConfigFromJson(With({{"rope_scaling", {{"type", "linear"}, {"factor", 2}}}}), "");
  ASSERT_TRUE(linear.ok()) << linear.status();
  EXPECT_EQ(linear->rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(linear->rope.factor, 2.0);
  const auto parameters = ConfigFromJson(
      With({{"rope_theta", nullptr}, {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 77.0}}}}), "");
  ASSERT_TRUE(parameters.ok()) << parameters.status();
  EXPECT_EQ(parameters->rope.scaling, RopeScaling::kNone);
  EXPECT_EQ(parameters->rope.theta, 77.0);
}

TEST(Families, RefusesWhatItDoesNotCompute) {
  const std::pair<const char*, json::value> settings[] = {{"qkv_bias", true},
                                                          {"hidden_act", "relu"},
                                                          {"sliding_window", 128},
                                                          {"rope_interleaved", true},
                                                          {"partial_rotary_factor", 0.5},
                                                          {"attn_logit_softcapping", 50.0},
                                                          {"num_local_experts", 8},
                                                          {"quantization_config", {{"quant_method", "awq"}}},
                                                          {"layer_types", {"full_attention", "sliding_attention"}},
                                                          {"rope_scaling", {{"type", "yarn"}, {"factor", 2}}},
                                                          {"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 2}}}};
  for (const auto& [key, value] : settings) {
    EXPECT_NE(Refusal(With({{key, value}})).find(key), std::string::npos)
        << key << ": " << Refusal(With({{key, value}}));
  }
  EXPECT_EQ(Refusal(With({{"attention_bias", false},
                          {"sliding_window", nullptr},
                          {"partial_rotary_factor", 1},
                          {"num_experts", 0},
                          {"layer_types", {"full_attention", "full_attention"}}})),
            "");
  EXPECT_EQ(Refusal(With({{"sliding_window", 256}})), "") << "as long as the context";
  EXPECT_EQ(Refusal(With({{"quantization_config", {{"quant_method", "fp8"}}}})), "");
  EXPECT_EQ(Refusal(With({{"sliding_window", 8}, {"use_sliding_window", false}})), "");
}

TEST(Families, ReportsEveryProblemAtOnce) {
  const std::string all = Refusal(With({{"clip_qkv", 8},
                                        {"hidden_size", "big"},
                                        {"vocab_size", nullptr},
                                        {"num_hidden_layers", 1e12},
                                        {"rope_scaling", 5},
                                        {"eos_token_id", "x"}}));
  for (const char* part :
       {"clip_qkv", "hidden_size", "vocab_size", "num_hidden_layers", "rope_scaling", "eos_token_id"}) {
    EXPECT_NE(all.find(part), std::string::npos) << part << " in: " << all;
  }
  EXPECT_NE(Refusal(With({{"num_attention_heads", 0}})), "");
  EXPECT_NE(Refusal(With({{"num_key_value_heads", 3}})).find("no multiple"), std::string::npos);
}

// Whatever stands at whichever key: an error or a config that nothing is wrong with.
TEST(Families, MalformedValuesNeverPass) {
  const json::value values[] = {nullptr,
                                true,
                                -1,
                                0,
                                3,
                                int64_t{1} << 40,
                                1e300,
                                -0.5,
                                "x",
                                json::array{},
                                json::array{-1, "x"},
                                json::object{},
                                json::object{{"rope_type", "longrope"}}};
  int refused = 0, tried = 0;
  for (const auto& [family, text] : testing::TinyFamilyConfigs()) {
    json::object config = json::parse(text).as_object();
    for (const char* key : {"rope_scaling", "rope_parameters", "layer_types", "partial_rotary_factor", "text_config",
                            "query_pre_attn_scalar", "max_window_layers", "decoder_sparse_step", "mlp_only_layers",
                            "quantization_config", "eos_token_id", "attn_output_multiplier", "use_sliding_window"}) {
      if (!config.contains(key)) config[key] = nullptr;
    }
    for (const auto& entry : config) {
      for (const json::value& value : values) {
        json::object changed = config;
        changed[entry.key()] = value;
        const auto c = ConfigFromJson(json::serialize(changed), "");
        ++tried;
        refused += c.ok() ? 0 : 1;
        EXPECT_TRUE(!c.ok() || CheckConfig(*c).empty()) << family << " " << changed;
      }
    }
  }
  EXPECT_GT(refused, tried / 3);
  EXPECT_LT(refused, tried);
}

TEST(Families, ReadsBiasesAndActivations) {
  const auto c = ConfigFromJson(With({{"attention_bias", true}, {"mlp_bias", true}, {"hidden_act", "gelu"}}), "");
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_TRUE(c->qkv_bias && c->output_bias && c->ffn_bias);
  EXPECT_EQ(c->activation, Activation::kGelu);
}

TEST(Families, LayerTypesSayWhichLayersHaveTheWindow) {
  json::object o = json::parse(testing::TinyFamilyConfigs().at("gemma3")).as_object();
  o["layer_types"] = {"full_attention", "sliding_attention", "full_attention"};
  o["rope_parameters"] = {{"full_attention", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 1e6}}},
                          {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 77.0}}}};
  const auto c = ConfigFromJson(json::serialize(o), "");
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->kinds, (std::vector<LayerKind>{{}, {.window = 8, .other_rope = true}, {}}));
  EXPECT_EQ(c->rope.factor, 8);
  EXPECT_EQ(c->rope.theta, 1e6);
  EXPECT_EQ(c->other_rope.theta, 77);
  o["layer_types"] = {"full_attention"};
  EXPECT_NE(Refusal(json::serialize(o)).find("layer_types"), std::string::npos);
}

TEST(Families, QwensWindowsAreOfTheLastLayersWhereTheyAreUsed) {
  json::object o = json::parse(testing::TinyFamilyConfigs().at("qwen2")).as_object();
  o["sliding_window"] = 8;
  o["max_window_layers"] = 1;
  EXPECT_TRUE(ConfigFromJson(json::serialize(o), "")->kinds.empty()) << "use_sliding_window is unsaid";
  o["use_sliding_window"] = true;
  const auto c = ConfigFromJson(json::serialize(o), "");
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->kinds, (std::vector<LayerKind>{{}, {.window = 8}, {.window = 8}}));
}

TEST(Families, NumbersFarOutOfRangeAreRefused) {
  for (const int64_t wide : {std::numeric_limits<int64_t>::min(), -(int64_t{1} << 32), int64_t{1} << 32}) {
    EXPECT_NE(Refusal(With({{"num_hidden_layers", wide}})).find("far out of range"), std::string::npos) << wide;
    testing::GgufWriter w = testing::TinyGguf(TinyModel());
    constexpr uint32_t kInt64 = 11;  // the type's number in the format
    w.Raw("llama.expert_count", kInt64, std::string_view(reinterpret_cast<const char*>(&wide), sizeof wide));
    EXPECT_NE(FromGguf(w).status().message().find("far out of range"), absl::string_view::npos) << FromGguf(w).status();
  }
}

TEST(Families, UnknownArchitecturesAreRefusedByName) {
  const std::string message = Refusal(With({{"architectures", {"MambaForCausalLM"}}}));
  EXPECT_NE(message.find("MambaForCausalLM"), std::string::npos) << message;
  EXPECT_NE(message.find("LlamaForCausalLM"), std::string::npos) << message;
  EXPECT_NE(Refusal(With({{"architectures", nullptr}})), "");
  EXPECT_NE(Refusal(With({{"architectures", {"A", "B"}}})), "");
  EXPECT_NE(Refusal("{"), "");
  testing::GgufWriter w;
  w.String("general.architecture", "mamba");
  w.Tensor("t", {1}, 0, "1234");
  EXPECT_NE(FromGguf(w).status().message().find("\"mamba\" is not supported"), absl::string_view::npos);
}

TEST(Families, GgufAndConfigJsonAgree) {
  for (const bool tied : {true, false}) {
    TinyModel m;
    m.tied = tied;
    m.rope_theta = 12345;
    const auto a = FromGguf(testing::TinyGguf(m));
    const auto b = ConfigFromJson(testing::TinyConfigJson(m), "");
    ASSERT_TRUE(a.ok()) << a.status();
    ASSERT_TRUE(b.ok()) << b.status();
    EXPECT_EQ(a->layers, b->layers);
    EXPECT_EQ(a->hidden, b->hidden);
    EXPECT_EQ(a->heads, b->heads);
    EXPECT_EQ(a->kv_heads, b->kv_heads);
    EXPECT_EQ(a->head_dim, b->head_dim);
    EXPECT_EQ(a->ffn, b->ffn);
    EXPECT_EQ(a->vocab, b->vocab);
    EXPECT_EQ(a->max_position, b->max_position);
    EXPECT_EQ(a->norm_eps, b->norm_eps);
    EXPECT_EQ(a->attention_scale, b->attention_scale);
    EXPECT_EQ(a->tied_embeddings, tied);
    EXPECT_EQ(b->tied_embeddings, tied);
    EXPECT_EQ(a->rope.theta, b->rope.theta);
    EXPECT_EQ(a->rope.dim, b->rope.dim);
    EXPECT_TRUE(a->rope.interleaved) << "converters permute q and k";
    EXPECT_EQ(a->eos_tokens, b->eos_tokens);
    EXPECT_EQ(a->bos_token, b->bos_token);
  }
}

TEST(Families, GgufRefusesKeysItDoesNotKnow) {
  testing::GgufWriter w = testing::TinyGguf(TinyModel());
  w.Uint32("llama.attention.sliding_window", 128);
  w.Float32("llama.logit_scale", 0.5f);
  w.Uint32("llama.expert_shared_count", 1);
  const auto c = FromGguf(w);
  ASSERT_FALSE(c.ok());
  for (const char* part : {"llama.attention.sliding_window", "llama.logit_scale", "llama.expert_shared_count"}) {
    EXPECT_NE(c.status().message().find(part), absl::string_view::npos) << c.status();
  }
  testing::GgufWriter yarn = testing::TinyGguf(TinyModel());
  yarn.String("llama.rope.scaling.type", "yarn");
  EXPECT_NE(FromGguf(yarn).status().message().find("yarn"), absl::string_view::npos);
}

TEST(Families, GgufEosIncludesEndOfTurn) {
  testing::GgufWriter w = testing::TinyGguf(TinyModel());
  w.Uint32("tokenizer.ggml.eot_token_id", 0);
  const auto c = FromGguf(w);
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->eos_tokens, (std::vector<int32_t>{2, 0}));
}

// The keys that llama.cpp's converters write for other architectures.
testing::GgufWriter Metadata(const std::string& architecture, bool layer_norm) {
  testing::GgufWriter w;
  w.String("general.architecture", architecture);
  const std::pair<const char*, uint32_t> sizes[] = {{"block_count", 12},         {"context_length", 64},
                                                    {"embedding_length", 64},    {"feed_forward_length", 96},
                                                    {"attention.head_count", 4}, {"attention.head_count_kv", 2},
                                                    {"vocab_size", 131}};
  for (const auto& [key, value] : sizes) w.Uint32(architecture + "." + key, value);
  w.Float32(architecture + (layer_norm ? ".attention.layer_norm_epsilon" : ".attention.layer_norm_rms_epsilon"), 1e-6f);
  w.Tensor("token_embd.weight", {1}, 0, std::string(4, '\0'));
  return w;
}

TEST(Families, GgufOfGemma) {
  testing::GgufWriter two = Metadata("gemma2", false);
  two.Uint32("gemma2.attention.sliding_window", 8);
  two.Float32("gemma2.attn_logit_softcapping", 40);
  const auto gemma2 = FromGguf(two);
  ASSERT_TRUE(gemma2.ok()) << gemma2.status();
  EXPECT_EQ(gemma2->attention_soft_cap, 40);
  EXPECT_EQ(gemma2->logit_soft_cap, 30) << "unsaid";
  EXPECT_EQ(gemma2->norm_weight_bias, 0) << "converters add it";
  EXPECT_EQ(gemma2->embedding_scale, 8);
  EXPECT_EQ(gemma2->kind(0).window, 8);
  EXPECT_EQ(gemma2->kind(1).window, 0);
  testing::GgufWriter three = Metadata("gemma3", false);
  three.Uint32("gemma3.attention.sliding_window", 8);
  three.String("gemma3.rope.scaling.type", "linear");
  three.Float32("gemma3.rope.scaling.factor", 8);
  const auto gemma3 = FromGguf(three);
  ASSERT_TRUE(gemma3.ok()) << gemma3.status();
  EXPECT_EQ(gemma3->kind(4), (LayerKind{.window = 8, .other_rope = true}));
  EXPECT_EQ(gemma3->kind(11), LayerKind());
  EXPECT_EQ(gemma3->rope.theta, 1e6);
  EXPECT_EQ(gemma3->rope.factor, 8);
  EXPECT_EQ(gemma3->other_rope.theta, 1e4);
  EXPECT_EQ(gemma3->other_rope.scaling, RopeScaling::kNone);
}

TEST(Families, GgufOfLongRope) {
  testing::GgufWriter w = Metadata("phi3", false);
  w.Uint32("phi3.rope.dimension_count", 12);
  w.Uint32("phi3.rope.scaling.original_context_length", 32);
  w.Float32("phi3.rope.scaling.attn_factor", 1.5f);
  const std::vector<float> factors = {1, 2, 3, 4, 5, 6};
  w.Tensor("rope_factors_short.weight", {6}, 0, testing::Stored(DType::kF32, std::vector<float>(6, 1.0f)));
  w.Tensor("rope_factors_long.weight", {6}, 0, testing::Stored(DType::kF32, factors));
  const auto c = FromGguf(w);
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->rope.scaling, RopeScaling::kLongRope);
  EXPECT_EQ(c->rope.amplitude, 1.5);
  EXPECT_EQ(c->rope.original_max_position, 32);
  EXPECT_EQ(c->rope.long_factors, (std::vector<double>{1, 2, 3, 4, 5, 6}));
  EXPECT_FALSE(c->rope.interleaved);
}

TEST(Families, GgufOfExpertsAndOfEncoders) {
  testing::GgufWriter moe = Metadata("qwen3moe", false);
  moe.Uint32("qwen3moe.expert_count", 8);
  moe.Uint32("qwen3moe.expert_used_count", 2);
  moe.Uint32("qwen3moe.expert_feed_forward_length", 32);
  const auto experts = FromGguf(moe);
  ASSERT_TRUE(experts.ok()) << experts.status();
  EXPECT_EQ(experts->experts, (Experts{.count = 8, .used = 2, .ffn = 32, .renormalise = true}));
  EXPECT_EQ(experts->ffn, 0);
  testing::GgufWriter grok = Metadata("grok", false);
  grok.Uint32("grok.expert_count", 8);
  grok.Uint32("grok.expert_used_count", 2);
  const auto old = FromGguf(grok);
  ASSERT_TRUE(old.ok()) << old.status();
  EXPECT_FLOAT_EQ(old->attention_scale, 0.08838834764831845f) << "as llama.cpp has it for files that do not say";
  EXPECT_EQ(old->experts.ffn, 96);
  EXPECT_EQ(old->attention_soft_cap, 30);
  testing::GgufWriter bert = Metadata("bert", true);
  bert.Bool("bert.attention.causal", false);
  bert.Uint32("bert.pooling_type", 2);
  const auto encoder = FromGguf(bert);
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  EXPECT_EQ(encoder->task, Task::kEmbed);
  EXPECT_EQ(encoder->pooling, Pooling::kFirst);
  EXPECT_FALSE(encoder->tied_embeddings);
  EXPECT_EQ(encoder->rope.dim, 0);
}

// Divisors as llama.cpp's converter writes them for Llama 3.1 and later.
TEST(Families, GgufRopeFreqsBecomeTheLlama3Scaling) {
  TinyModel m;
  m.rope_theta = 500000;
  Rope plain, scaled;
  plain.theta = scaled.theta = m.rope_theta;
  plain.dim = scaled.dim = m.head_dim;
  scaled.scaling = RopeScaling::kLlama3;
  scaled.factor = 32;
  scaled.original_max_position = 8192;
  std::vector<float> divisors;
  for (size_t i = 0; i < 16; ++i) {
    divisors.push_back(static_cast<float>(plain.InverseFrequencies(0)[i] / scaled.InverseFrequencies(0)[i]));
  }
  testing::GgufWriter w = testing::TinyGguf(m);
  w.Tensor("rope_freqs.weight", {16}, 0, testing::Stored(DType::kF32, divisors));
  const auto c = FromGguf(w);
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->rope.scaling, RopeScaling::kLlama3);
  EXPECT_NEAR(c->rope.factor, 32, 1e-4);
  for (size_t i = 0; i < 16; ++i) {
    EXPECT_NEAR(c->rope.InverseFrequencies(0)[i] / scaled.InverseFrequencies(0)[i], 1, 1e-5) << i;
  }

  divisors[8] *= 1.5f;
  testing::GgufWriter other = testing::TinyGguf(m);
  other.Tensor("rope_freqs.weight", {16}, 0, testing::Stored(DType::kF32, divisors));
  EXPECT_NE(FromGguf(other).status().message().find("rope_freqs"), absl::string_view::npos) << "never silently wrong";

  testing::GgufWriter ones = testing::TinyGguf(m);
  ones.Tensor("rope_freqs.weight", {16}, 0, testing::Stored(DType::kF32, std::vector<float>(16, 1.0f)));
  EXPECT_EQ(FromGguf(ones)->rope.scaling, RopeScaling::kNone);
}

}  // namespace
}  // namespace shoal::model
