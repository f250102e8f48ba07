// Tested by: tests/model/arrange_test.cc
#include "tests/testing/family_configs.h"

#include "boost/json.hpp"

namespace shoal::testing {
namespace {

namespace json = boost::json;

// Three layers of 4 heads over 2, with every width a multiple of 32 that no power of two divides evenly.
std::string Tiny(const char* architecture, const json::object& own) {
  json::object config = {{"architectures", {architecture}},
                         {"num_hidden_layers", 3},
                         {"hidden_size", 64},
                         {"num_attention_heads", 4},
                         {"num_key_value_heads", 2},
                         {"head_dim", 16},
                         {"intermediate_size", 96},
                         {"vocab_size", 131},
                         {"max_position_embeddings", 64},
                         {"rms_norm_eps", 1e-6},
                         {"rope_theta", 10000.0},
                         {"tie_word_embeddings", false}};
  for (const auto& entry : own) config[entry.key()] = entry.value();
  return json::serialize(config);
}

}  // namespace

std::map<std::string, std::string> TinyFamilyConfigs() {
  const json::object windows = {{"tie_word_embeddings", true}, {"sliding_window", 8}, {"sliding_window_pattern", 3}};
  const json::object experts = {{"num_local_experts", 4}, {"num_experts", 4}, {"num_experts_per_tok", 2}};
  json::object moe = experts;
  moe.insert({{"moe_intermediate_size", 160}, {"norm_topk_prob", true}, {"mlp_only_layers", {1}}});
  json::object mixtral = experts;
  mixtral.erase("num_experts");
  json::object grok = experts;
  grok.erase("num_local_experts");
  grok["tie_word_embeddings"] = true;
  const json::object gpt2 = {{"architectures", {"GPT2LMHeadModel"}},
                             {"n_layer", 2},
                             {"n_embd", 64},
                             {"n_head", 4},
                             {"n_inner", 96},
                             {"n_positions", 32},
                             {"n_ctx", 32},
                             {"vocab_size", 131},
                             {"layer_norm_epsilon", 1e-5},
                             {"activation_function", "gelu_new"}};
  const json::object bert = {
      {"hidden_act", "gelu"}, {"layer_norm_eps", 1e-12}, {"type_vocab_size", 2}, {"num_key_value_heads", nullptr}};
  return {{"llama", Tiny("LlamaForCausalLM", {{"attention_bias", true}, {"mlp_bias", true}})},
          {"mistral", Tiny("MistralForCausalLM", {{"sliding_window", 8}})},
          {"qwen2", Tiny("Qwen2ForCausalLM", {{"tie_word_embeddings", true}})},
          {"qwen3", Tiny("Qwen3ForCausalLM", {})},
          {"gemma2", Tiny("Gemma2ForCausalLM", windows)},
          {"gemma3", Tiny("Gemma3ForCausalLM", windows)},
          {"phi3", Tiny("Phi3ForCausalLM", {})},
          {"mixtral", Tiny("MixtralForCausalLM", mixtral)},
          {"qwen3_moe", Tiny("Qwen3MoeForCausalLM", moe)},
          {"grok1", Tiny("Grok1ModelForCausalLM", grok)},
          {"gpt2", json::serialize(gpt2)},
          {"bert", Tiny("BertModel", bert)}};
}

}  // namespace shoal::testing
