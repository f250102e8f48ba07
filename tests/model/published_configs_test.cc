// config.json of published models, without the keys that say nothing about the computation (versions, dropout,
// initialisation), and what is to be made of them.
#include <gtest/gtest.h>

#include <cmath>

#include "common/model/families.h"

namespace shoal::model {
namespace {

ModelConfig Read(const std::string& text) {
  auto config = ConfigFromJson(text, "");
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *std::move(config) : ModelConfig();
}

TEST(PublishedConfigs, Zephyr7bBeta) {
  const ModelConfig c = Read(R"({"architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
    "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "pad_token_id": 2, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096,
    "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 32000})");
  ASSERT_EQ(c.kinds.size(), 32u);
  for (const LayerKind& kind : c.kinds) EXPECT_EQ(kind, (LayerKind{.window = 4096}));
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_EQ(c.kv_heads, 8);
}

TEST(PublishedConfigs, Qwen25Has05B) {
  const ModelConfig c = Read(R"({"architectures": ["Qwen2ForCausalLM"], "bos_token_id": 151643, "eos_token_id": 151645,
    "hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864, "max_position_embeddings": 32768,
    "max_window_layers": 21, "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768,
    "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 151936})");
  EXPECT_TRUE(c.qkv_bias);
  EXPECT_FALSE(c.output_bias);
  EXPECT_TRUE(c.kinds.empty());
  EXPECT_TRUE(c.tied_embeddings);
  EXPECT_EQ(c.rope.theta, 1e6);
}

TEST(PublishedConfigs, Qwen3Has06B) {
  const ModelConfig c = Read(R"({"architectures": ["Qwen3ForCausalLM"], "attention_bias": false,
    "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
    "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
    "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
    "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": true,
    "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 151936})");
  EXPECT_TRUE(c.qk_norm);
  EXPECT_FALSE(c.qkv_bias);
  EXPECT_EQ(c.heads * c.head_dim, 2048) << "wider than the residual stream";
}

TEST(PublishedConfigs, Gemma2Has2B) {
  const ModelConfig c = Read(R"({"architectures": ["Gemma2ForCausalLM"], "attention_bias": false,
    "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": [1, 107],
    "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "intermediate_size": 9216,
    "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 8, "num_hidden_layers": 26,
    "num_key_value_heads": 4, "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0, "sliding_window": 4096, "torch_dtype": "bfloat16", "vocab_size": 256000})");
  EXPECT_EQ(c.norm_place, NormPlace::kBeforeAndAfter);
  EXPECT_EQ(c.norm_weight_bias, 1);
  EXPECT_EQ(c.attention_soft_cap, 50);
  EXPECT_EQ(c.logit_soft_cap, 30);
  EXPECT_EQ(c.embedding_scale, 48);
  EXPECT_EQ(c.attention_scale, 1.0f / 16);
  EXPECT_EQ(c.activation, Activation::kGeluTanh);
  EXPECT_TRUE(c.tied_embeddings) << "unsaid";
  EXPECT_EQ(c.kind(0).window, 4096);
  EXPECT_EQ(c.kind(1).window, 0);
  EXPECT_EQ(c.kind(24).window, 4096);
  EXPECT_FALSE(c.kind(0).other_rope);
}

TEST(PublishedConfigs, Gemma3Has1B) {
  const ModelConfig c = Read(R"({"architectures": ["Gemma3ForCausalLM"], "attention_bias": false,
    "attn_logit_softcapping": null, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": [1, 106],
    "final_logit_softcapping": null, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152,
    "intermediate_size": 6912, "max_position_embeddings": 32768, "model_type": "gemma3_text",
    "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1, "pad_token_id": 0,
    "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000, "rope_scaling": null,
    "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6, "torch_dtype": "bfloat16",
    "vocab_size": 262144})");
  EXPECT_TRUE(c.qk_norm);
  EXPECT_EQ(c.attention_soft_cap, 0);
  EXPECT_EQ(c.kind(4), (LayerKind{.window = 512, .other_rope = true}));
  EXPECT_EQ(c.kind(5), LayerKind());
  EXPECT_EQ(c.rope.theta, 1e6);
  EXPECT_EQ(c.other_rope.theta, 1e4);
  EXPECT_EQ(c.other_rope.dim, 256);
  EXPECT_FLOAT_EQ(c.embedding_scale, std::sqrt(1152.0f));
}

// Of a model that also sees images: most is unsaid.
TEST(PublishedConfigs, Gemma3Has4B) {
  const ModelConfig c = Read(R"({"architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999,
    "eoi_token_index": 256000, "eos_token_id": [1, 106], "image_token_index": 262144, "mm_tokens_per_image": 256,
    "model_type": "gemma3", "text_config": {"hidden_size": 2560, "intermediate_size": 10240,
    "model_type": "gemma3_text", "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024}, "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 1152,
    "model_type": "siglip_vision_model"}})");
  EXPECT_EQ(c.vocab, 262208);
  EXPECT_EQ(c.heads, 8);
  EXPECT_EQ(c.kv_heads, 4);
  EXPECT_EQ(c.head_dim, 256);
  EXPECT_EQ(c.max_position, 131072);
  EXPECT_EQ(c.rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(c.rope.factor, 8);
  EXPECT_EQ(c.other_rope.scaling, RopeScaling::kNone);
  EXPECT_EQ(c.eos_tokens, (std::vector<int32_t>{1, 106}));
  EXPECT_EQ(c.kind(33).window, 1024);
  EXPECT_EQ(c.kind(29).window, 0);
}

TEST(PublishedConfigs, Phi3Mini4k) {
  const ModelConfig c = Read(R"({"architectures": ["Phi3ForCausalLM"], "attention_bias": false, "bos_token_id": 1,
    "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192,
    "max_position_embeddings": 4096, "model_type": "phi3", "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 32, "original_max_position_embeddings": 4096, "pad_token_id": 32000,
    "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 10000.0, "sliding_window": 2047,
    "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 32064})");
  EXPECT_EQ(c.kind(31).window, 2047);
  EXPECT_EQ(c.rope.dim, 96);
  EXPECT_EQ(c.rope.scaling, RopeScaling::kNone);
}

// The shape of Phi-4-mini: a part of each head is rotated, with factors for contexts within and beyond 4,096 tokens.
TEST(PublishedConfigs, LongRopeOfPhi4Mini) {
  std::string factors = "1.0";
  for (int i = 1; i < 48; ++i) factors += ", " + std::to_string(1 + i);
  const ModelConfig c = Read(R"({"architectures": ["Phi3ForCausalLM"], "attention_bias": false, "bos_token_id": 199999,
    "eos_token_id": 199999, "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192,
    "max_position_embeddings": 131072, "model_type": "phi3", "num_attention_heads": 24, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75,
    "rms_norm_eps": 1e-05, "rope_scaling": {"long_factor": [)" +
                             factors + R"(], "short_factor": [)" + factors + R"(],
    "type": "longrope"}, "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": true,
    "torch_dtype": "bfloat16", "vocab_size": 200064})");
  EXPECT_TRUE(c.kinds.empty()) << "a window beyond the context";
  EXPECT_EQ(c.rope.dim, 96);
  EXPECT_EQ(c.rope.scaling, RopeScaling::kLongRope);
  EXPECT_EQ(c.rope.original_max_position, 4096);
  EXPECT_DOUBLE_EQ(c.rope.amplitude, std::sqrt(1 + std::log(32.0) / std::log(4096.0)));
  EXPECT_EQ(c.rope.long_factors.size(), 48u);
  EXPECT_EQ(c.rope.long_factors[47], 48);
}

TEST(PublishedConfigs, Mixtral8x7B) {
  const ModelConfig c = Read(R"({"architectures": ["MixtralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
    "model_type": "mixtral", "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "num_local_experts": 8, "output_router_logits": false, "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "sliding_window": null, "tie_word_embeddings": false,
    "torch_dtype": "bfloat16", "vocab_size": 32000})");
  EXPECT_EQ(c.experts, (Experts{.count = 8, .used = 2, .ffn = 14336, .renormalise = true}));
  EXPECT_EQ(c.ffn, 0) << "no layer has a network of its own";
  EXPECT_EQ(c.kind(31), (LayerKind{.has_experts = true}));
}

TEST(PublishedConfigs, Qwen3Has30BOfExperts) {
  const ModelConfig c = Read(R"({"architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false,
    "bos_token_id": 151643, "decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
    "hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 40960, "max_window_layers": 48,
    "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 768, "norm_topk_prob": true,
    "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
    "num_key_value_heads": 4, "output_router_logits": false, "rms_norm_eps": 1e-06, "rope_scaling": null,
    "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "sliding_window": null, "tie_word_embeddings": false,
    "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 151936})");
  EXPECT_EQ(c.experts, (Experts{.count = 128, .used = 8, .ffn = 768, .renormalise = true}));
  EXPECT_EQ(c.kind(0), (LayerKind{.has_experts = true}));
}

// Qwen3-Coder says of its norms what the family has anyway.
TEST(PublishedConfigs, NormsOfQueriesAndKeysMayBeSaidOnceMore) {
  const std::string config = R"({"architectures": ["Qwen3ForCausalLM"], "head_dim": 128, "hidden_act": "silu",
    "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960, "num_attention_heads": 16,
    "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_theta": 1000000,
    "tie_word_embeddings": true, "vocab_size": 151936, "use_qk_norm": )";
  EXPECT_TRUE(ConfigFromJson(config + "true}", "").ok());
  EXPECT_FALSE(ConfigFromJson(config + "false}", "").ok());
}

TEST(PublishedConfigs, Grok1) {
  const ModelConfig c = Read(R"({"architectures": ["Grok1ModelForCausalLM"],
    "attn_output_multiplier": 0.08838834764831845, "bos_token_id": 1, "embedding_multiplier_scale": 78.38367176906169,
    "eos_token_id": 2, "hidden_size": 6144, "intermediate_size": 32768, "max_attn_value": 30.0,
    "max_position_embeddings": 8192, "model_type": "grok-1", "num_attention_heads": 48, "num_experts": 8,
    "num_experts_per_tok": 2, "num_hidden_layers": 64, "num_key_value_heads": 8, "output_multiplier_scale":
    0.5773502691896257, "output_router_logits": false, "pad_token_id": 0, "rms_norm_eps": 1e-05,
    "router_aux_loss_coef": 0.001, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 131072})");
  EXPECT_EQ(c.experts, (Experts{.count = 8, .used = 2, .ffn = 32768, .renormalise = false}));
  EXPECT_EQ(c.attention_soft_cap, 30);
  EXPECT_FLOAT_EQ(c.attention_scale, 0.08838834764831845f);
  EXPECT_FLOAT_EQ(c.embedding_scale, 78.38367176906169f);
  EXPECT_FLOAT_EQ(c.logit_scale, 0.5773502691896257f);
  EXPECT_EQ(c.norm_place, NormPlace::kBeforeAndAfter);
  EXPECT_EQ(c.norm_weight_bias, 0);
}

TEST(PublishedConfigs, Gpt2) {
  const ModelConfig c = Read(R"({"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1, "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12,
    "n_positions": 1024, "resid_pdrop": 0.1, "vocab_size": 50257})");
  EXPECT_EQ(c.ffn, 3072) << "unsaid";
  EXPECT_EQ(c.norm, Norm::kLayer);
  EXPECT_TRUE(c.qkv_bias && c.output_bias && c.ffn_bias && c.norm_bias && c.learned_positions && c.tied_embeddings);
  EXPECT_FALSE(c.gated);
  EXPECT_EQ(c.activation, Activation::kGeluTanh);
  EXPECT_EQ(c.rope.dim, 0);
}

TEST(PublishedConfigs, AllMiniLmL6V2) {
  const ModelConfig c = Read(R"({"architectures": ["BertModel"], "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": false, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 384,
    "initializer_range": 0.02, "intermediate_size": 1536, "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
    "model_type": "bert", "num_attention_heads": 12, "num_hidden_layers": 6, "pad_token_id": 0,
    "position_embedding_type": "absolute", "type_vocab_size": 2, "use_cache": true, "vocab_size": 30522})");
  EXPECT_EQ(c.task, Task::kEmbed);
  EXPECT_FALSE(c.causal || c.final_norm || c.tied_embeddings || c.has_head());
  EXPECT_TRUE(c.embedding_norm && c.token_types && c.learned_positions);
  EXPECT_EQ(c.norm_place, NormPlace::kAfter);
  EXPECT_EQ(c.activation, Activation::kGelu);
  EXPECT_EQ(c.pooling, Pooling::kMean);
}

}  // namespace
}  // namespace shoal::model
