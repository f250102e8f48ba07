#include "common/model/families.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/model/family.h"

namespace shoal::model {
namespace {

// ---- names of tensors ----

using Rows = std::vector<StoredName>;

// `base` with other rows for the roles that `own` has.
Rows With(const Rows& base, const Rows& own) {
  Rows out = own;
  for (const StoredName& row : base) {
    if (std::none_of(own.begin(), own.end(), [&](const StoredName& o) { return o.role == row.role; })) {
      out.push_back(row);
    }
  }
  return out;
}

// As transformers names Llama's, and most others'.
Rows LlamaRows() {
  return {{Role::kEmbedding, "embed_tokens.weight"},
          {Role::kAttnNorm, "layers.{L}.input_layernorm.weight"},
          {Role::kQ, "layers.{L}.self_attn.q_proj.weight"},
          {Role::kK, "layers.{L}.self_attn.k_proj.weight"},
          {Role::kV, "layers.{L}.self_attn.v_proj.weight"},
          {Role::kQNorm, "layers.{L}.self_attn.q_norm.weight"},
          {Role::kKNorm, "layers.{L}.self_attn.k_norm.weight"},
          {Role::kO, "layers.{L}.self_attn.o_proj.weight"},
          {Role::kFfnNorm, "layers.{L}.post_attention_layernorm.weight"},
          {Role::kGate, "layers.{L}.mlp.gate_proj.weight"},
          {Role::kUp, "layers.{L}.mlp.up_proj.weight"},
          {Role::kDown, "layers.{L}.mlp.down_proj.weight"},
          {Role::kRouter, "layers.{L}.mlp.gate.weight"},
          {Role::kExpertGate, "layers.{L}.mlp.experts.{E}.gate_proj.weight"},
          {Role::kExpertUp, "layers.{L}.mlp.experts.{E}.up_proj.weight"},
          {Role::kExpertDown, "layers.{L}.mlp.experts.{E}.down_proj.weight"},
          {Role::kFinalNorm, "norm.weight"},
          {Role::kHead, "lm_head.weight"}};
}

// What the config says already.
constexpr const char* kFrequencies = "*.rotary_emb.inv_freq";

StoredNames Llama() { return {.prefixes = {"model."}, .names = LlamaRows(), .unused = {kFrequencies}}; }

// Gemma2 and 3; the latter also as a part of a model with an image encoder, by transformers' older and newer names.
StoredNames Gemma() {
  return {.prefixes = {"model.", "language_model.model.", "model.language_model."},
          .names = With(LlamaRows(), {{Role::kAttnPostNorm, "layers.{L}.post_attention_layernorm.weight"},
                                      {Role::kFfnNorm, "layers.{L}.pre_feedforward_layernorm.weight"},
                                      {Role::kFfnPostNorm, "layers.{L}.post_feedforward_layernorm.weight"}}),
          .unused = {kFrequencies, "vision_tower.*", "multi_modal_projector.*", "model.vision_tower.*",
                     "model.multi_modal_projector.*", "language_model.lm_head.weight"}};
}

StoredNames Phi3() {
  return {.prefixes = {"model."},
          .names = With(LlamaRows(), {{Role::kQ, "layers.{L}.self_attn.qkv_proj.weight", Piece::kQOfQkv},
                                      {Role::kK, "layers.{L}.self_attn.qkv_proj.weight", Piece::kKOfQkv},
                                      {Role::kV, "layers.{L}.self_attn.qkv_proj.weight", Piece::kVOfQkv},
                                      {Role::kGate, "layers.{L}.mlp.gate_up_proj.weight", Piece::kGateOfGateUp},
                                      {Role::kUp, "layers.{L}.mlp.gate_up_proj.weight", Piece::kUpOfGateUp}}),
          .unused = {kFrequencies}};
}

StoredNames Mixtral() {
  return {.prefixes = {"model."},
          .names = With(LlamaRows(), {{Role::kRouter, "layers.{L}.block_sparse_moe.gate.weight"},
                                      {Role::kExpertGate, "layers.{L}.block_sparse_moe.experts.{E}.w1.weight"},
                                      {Role::kExpertUp, "layers.{L}.block_sparse_moe.experts.{E}.w3.weight"},
                                      {Role::kExpertDown, "layers.{L}.block_sparse_moe.experts.{E}.w2.weight"}}),
          .unused = {kFrequencies}};
}

// As the port to torch names them (hpcai-tech/grok-1).
StoredNames Grok() {
  return {.prefixes = {"model."},
          .names = With(LlamaRows(), {{Role::kAttnNorm, "layers.{L}.pre_attn_norm.scale"},
                                      {Role::kQ, "layers.{L}.attn.q_proj.weight"},
                                      {Role::kK, "layers.{L}.attn.k_proj.weight"},
                                      {Role::kV, "layers.{L}.attn.v_proj.weight"},
                                      {Role::kO, "layers.{L}.attn.o_proj.weight"},
                                      {Role::kAttnPostNorm, "layers.{L}.post_attn_norm.scale"},
                                      {Role::kFfnNorm, "layers.{L}.pre_moe_norm.scale"},
                                      {Role::kRouter, "layers.{L}.moe_block.gate.weight"},
                                      {Role::kExpertGate, "layers.{L}.moe_block.experts.{E}.linear.weight"},
                                      {Role::kExpertUp, "layers.{L}.moe_block.experts.{E}.linear_v.weight"},
                                      {Role::kExpertDown, "layers.{L}.moe_block.experts.{E}.linear_1.weight"},
                                      {Role::kFfnPostNorm, "layers.{L}.post_moe_norm.scale"},
                                      {Role::kFinalNorm, "norm.scale"}}),
          .unused = {kFrequencies, "*.rotary_emb.cos_cached", "*.rotary_emb.sin_cached"}};
}

// Its Conv1D keeps matrices as [in, out]. attn.bias is the causal mask.
StoredNames Gpt2() {
  return {.prefixes = {"", "transformer."},
          .names = {{Role::kEmbedding, "wte.weight"},
                    {Role::kPositions, "wpe.weight"},
                    {Role::kAttnNorm, "h.{L}.ln_1.weight"},
                    {Role::kQ, "h.{L}.attn.c_attn.weight", Piece::kQOfQkv, true},
                    {Role::kK, "h.{L}.attn.c_attn.weight", Piece::kKOfQkv, true},
                    {Role::kV, "h.{L}.attn.c_attn.weight", Piece::kVOfQkv, true},
                    {Role::kO, "h.{L}.attn.c_proj.weight", Piece::kWhole, true},
                    {Role::kFfnNorm, "h.{L}.ln_2.weight"},
                    {Role::kUp, "h.{L}.mlp.c_fc.weight", Piece::kWhole, true},
                    {Role::kDown, "h.{L}.mlp.c_proj.weight", Piece::kWhole, true},
                    {Role::kFinalNorm, "ln_f.weight"},
                    {Role::kHead, "lm_head.weight"}},
          .unused = {"*.attn.bias", "*.attn.masked_bias"}};
}

// Checkpoints from TensorFlow call the weights of a LayerNorm gamma and beta; those are not known here.
StoredNames Bert() {
  return {.prefixes = {"", "bert."},
          .names = {{Role::kEmbedding, "embeddings.word_embeddings.weight"},
                    {Role::kPositions, "embeddings.position_embeddings.weight"},
                    {Role::kTokenType, "embeddings.token_type_embeddings.weight", Piece::kFirstRow},
                    {Role::kEmbeddingNorm, "embeddings.LayerNorm.weight"},
                    {Role::kQ, "encoder.layer.{L}.attention.self.query.weight"},
                    {Role::kK, "encoder.layer.{L}.attention.self.key.weight"},
                    {Role::kV, "encoder.layer.{L}.attention.self.value.weight"},
                    {Role::kO, "encoder.layer.{L}.attention.output.dense.weight"},
                    {Role::kAttnPostNorm, "encoder.layer.{L}.attention.output.LayerNorm.weight"},
                    {Role::kUp, "encoder.layer.{L}.intermediate.dense.weight"},
                    {Role::kDown, "encoder.layer.{L}.output.dense.weight"},
                    {Role::kFfnPostNorm, "encoder.layer.{L}.output.LayerNorm.weight"}},
          .unused = {"*embeddings.position_ids", "pooler.*", "bert.pooler.*", "cls.*"}};
}

// As llama.cpp's converters name them for every architecture (gguf-py, constants.py). Experts are stacked, in early
// files of Mixtral not yet.
Rows GgufRows() {
  return {{Role::kEmbedding, "token_embd.weight"},
          {Role::kPositions, "position_embd.weight"},
          {Role::kTokenType, "token_types.weight", Piece::kFirstRow},
          {Role::kEmbeddingNorm, "token_embd_norm.weight"},
          {Role::kAttnNorm, "blk.{L}.attn_norm.weight"},
          {Role::kQ, "blk.{L}.attn_q.weight"},
          {Role::kK, "blk.{L}.attn_k.weight"},
          {Role::kV, "blk.{L}.attn_v.weight"},
          {Role::kQNorm, "blk.{L}.attn_q_norm.weight"},
          {Role::kKNorm, "blk.{L}.attn_k_norm.weight"},
          {Role::kO, "blk.{L}.attn_output.weight"},
          {Role::kAttnPostNorm, "blk.{L}.post_attention_norm.weight"},
          {Role::kFfnNorm, "blk.{L}.ffn_norm.weight"},
          {Role::kGate, "blk.{L}.ffn_gate.weight"},
          {Role::kUp, "blk.{L}.ffn_up.weight"},
          {Role::kDown, "blk.{L}.ffn_down.weight"},
          {Role::kRouter, "blk.{L}.ffn_gate_inp.weight"},
          {Role::kExpertGate, "blk.{L}.ffn_gate_exps.weight"},
          {Role::kExpertGate, "blk.{L}.ffn_gate.{E}.weight"},
          {Role::kExpertUp, "blk.{L}.ffn_up_exps.weight"},
          {Role::kExpertUp, "blk.{L}.ffn_up.{E}.weight"},
          {Role::kExpertDown, "blk.{L}.ffn_down_exps.weight"},
          {Role::kExpertDown, "blk.{L}.ffn_down.{E}.weight"},
          {Role::kFfnPostNorm, "blk.{L}.post_ffw_norm.weight"},
          {Role::kFinalNorm, "output_norm.weight"},
          {Role::kHead, "output.weight"}};
}

// Rotary factors are read with the metadata.
StoredNames Gguf(const Rows& own) {
  return {.prefixes = {""}, .names = With(GgufRows(), own), .unused = {"rope_freqs.weight", "rope_factors_*"}};
}

Rows GgufQkv() {
  return {{Role::kQ, "blk.{L}.attn_qkv.weight", Piece::kQOfQkv},
          {Role::kK, "blk.{L}.attn_qkv.weight", Piece::kKOfQkv},
          {Role::kV, "blk.{L}.attn_qkv.weight", Piece::kVOfQkv}};
}

Rows GgufPhi3() {
  return With({{Role::kGate, "blk.{L}.ffn_up.weight", Piece::kGateOfGateUp},
               {Role::kUp, "blk.{L}.ffn_up.weight", Piece::kUpOfGateUp}},
              GgufQkv());
}

Rows GgufGrok() {
  return {{Role::kAttnPostNorm, "blk.{L}.attn_output_norm.weight"},
          {Role::kFfnPostNorm, "blk.{L}.layer_output_norm.weight"},
          {Role::kFfnPostNorm, "blk.{L}.post_ffw_norm.weight"}};
}

Rows GgufBert() {
  return {{Role::kAttnPostNorm, "blk.{L}.attn_output_norm.weight"},
          {Role::kFfnPostNorm, "blk.{L}.layer_output_norm.weight"}};
}

// ---- families ----

ModelConfig GemmaProperties() {
  ModelConfig c;
  c.norm_place = NormPlace::kBeforeAndAfter;
  c.norm_weight_bias = 1;
  c.activation = Activation::kGeluTanh;
  return c;
}

ModelConfig Gpt2Properties() {
  ModelConfig c;
  c.norm = Norm::kLayer;
  c.qkv_bias = c.output_bias = c.ffn_bias = c.norm_bias = true;
  c.gated = false;
  c.activation = Activation::kGeluTanh;
  c.learned_positions = true;
  return c;
}

ModelConfig BertProperties() {
  ModelConfig c = Gpt2Properties();
  c.task = Task::kEmbed;
  c.norm_place = NormPlace::kAfter;
  c.final_norm = false;
  c.activation = Activation::kGelu;
  c.causal = false;
  c.embedding_norm = c.token_types = true;
  return c;
}

ModelConfig Properties(void (*set)(ModelConfig&)) {
  ModelConfig c;
  set(c);
  return c;
}

using Families = std::vector<Family>;

void AddLlamas(Families& all) {
  // Llama 2, 3, 3.1, 3.2, 3.3, SmolLM2, and whatever else names it. In GGUF, Mistral and Mixtral too.
  all.push_back({.hf = {"LlamaForCausalLM"},
                 .gguf = "llama",
                 .properties = Properties([](ModelConfig& c) { c.experts.renormalise = true; }),
                 .reads = {"attention_bias", "mlp_bias"},
                 .names = Llama(),
                 .gguf_interleaved = true,
                 .gguf_keys = {"expert_feed_forward_length"},
                 .gguf_names = Gguf({})});
  // Zephyr and other fine-tunings too.
  all.push_back({.hf = {"MistralForCausalLM"},
                 .windows = Windows::kAll,
                 .unsaid = {{"sliding_window", "4096"}, {"num_key_value_heads", "8"}},
                 .names = Llama()});
  all.push_back({.hf = {"Qwen2ForCausalLM"},
                 .gguf = "qwen2",
                 .properties = Properties([](ModelConfig& c) { c.qkv_bias = true; }),
                 .windows = Windows::kLast,
                 .unsaid = {{"sliding_window", "4096"}, {"max_window_layers", "28"}, {"use_sliding_window", "false"}},
                 .reads = {"layer_types"},
                 .names = Llama(),
                 .gguf_names = Gguf({})});
  all.push_back({.hf = {"Qwen3ForCausalLM"},
                 .gguf = "qwen3",
                 .properties = Properties([](ModelConfig& c) { c.qk_norm = true; }),
                 .windows = Windows::kLast,
                 .unsaid = {{"head_dim", "128"},
                            {"sliding_window", "4096"},
                            {"max_window_layers", "28"},
                            {"use_sliding_window", "false"}},
                 .reads = {"attention_bias", "layer_types"},
                 .names = Llama(),
                 .gguf_names = Gguf({})});
  all.push_back({.hf = {"Phi3ForCausalLM"},
                 .gguf = "phi3",
                 .windows = Windows::kAll,
                 .reads = {"partial_rotary_factor"},
                 .names = Phi3(),
                 .gguf_keys = {"attention.sliding_window", "rope.scaling.attn_factor"},
                 .gguf_names = Gguf(GgufPhi3())});
}

void AddGemmas(Families& all) {
  all.push_back({.hf = {"Gemma2ForCausalLM"},
                 .gguf = "gemma2",
                 .properties = GemmaProperties(),
                 .embedding_by_width = true,
                 .windows = Windows::kAlternate,
                 .keys = {.activation = "hidden_activation"},
                 .unsaid = {{"head_dim", "256"},
                            {"sliding_window", "4096"},
                            {"query_pre_attn_scalar", "256"},
                            {"attn_logit_softcapping", "50.0"},
                            {"final_logit_softcapping", "30.0"},
                            {"hidden_activation", "\"gelu_pytorch_tanh\""},
                            {"tie_word_embeddings", "true"}},
                 .reads = {"attention_bias", "layer_types", "query_pre_attn_scalar", "attn_logit_softcapping",
                           "final_logit_softcapping"},
                 .names = Gemma(),
                 .gguf_keys = {"attention.sliding_window", "attn_logit_softcapping", "final_logit_softcapping"},
                 .gguf_unsaid = {{"attention.sliding_window", 4096},
                                 {"attn_logit_softcapping", 50},
                                 {"final_logit_softcapping", 30}},
                 .layers_scaled_by_width = 46,  // 27B
                 .gguf_names = Gguf({})});
  all.push_back({.hf = {"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"},
                 .gguf = "gemma3",
                 .properties = Properties([](ModelConfig& c) {
                   c = GemmaProperties();
                   c.qk_norm = true;
                 }),
                 .embedding_by_width = true,
                 .other_rope_in_windows = true,
                 .windows = Windows::kPattern,
                 .keys = {.activation = "hidden_activation"},
                 .unsaid = {{"vocab_size", "262208"},
                            {"num_attention_heads", "8"},
                            {"num_key_value_heads", "4"},
                            {"head_dim", "256"},
                            {"max_position_embeddings", "131072"},
                            {"rms_norm_eps", "1e-6"},
                            {"rope_theta", "1000000.0"},
                            {"rope_local_base_freq", "10000.0"},
                            {"sliding_window", "4096"},
                            {"sliding_window_pattern", "6"},
                            {"query_pre_attn_scalar", "256"},
                            {"hidden_activation", "\"gelu_pytorch_tanh\""},
                            {"tie_word_embeddings", "true"}},
                 .reads = {"attention_bias", "layer_types", "query_pre_attn_scalar", "attn_logit_softcapping",
                           "final_logit_softcapping"},
                 .names = Gemma(),
                 .gguf_keys = {"attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa",
                               "final_logit_softcapping"},
                 .gguf_unsaid = {{"rope.freq_base", 1e6}, {"attention.sliding_window_pattern", 6}},
                 .layers_scaled_by_width = 62,  // 27B
                 .gguf_names = Gguf({})});
}

void AddMixtures(Families& all) {
  all.push_back({.hf = {"MixtralForCausalLM"},
                 .properties = Properties([](ModelConfig& c) { c.experts.renormalise = true; }),
                 .windows = Windows::kAll,
                 .keys = {.experts = "num_local_experts", .expert_ffn = "intermediate_size"},
                 .unsaid = {{"rope_theta", "1000000.0"},
                            {"num_key_value_heads", "8"},
                            {"num_local_experts", "8"},
                            {"num_experts_per_tok", "2"}},
                 .reads = {"num_local_experts"},
                 .names = Mixtral()});
  all.push_back({.hf = {"Qwen3MoeForCausalLM"},
                 .gguf = "qwen3moe",
                 .properties = Properties([](ModelConfig& c) {
                   c.qk_norm = true;
                   c.experts.renormalise = true;
                 }),
                 .windows = Windows::kAll,
                 .keys = {.experts = "num_experts", .expert_ffn = "moe_intermediate_size"},
                 .unsaid = {{"sliding_window", "4096"},
                            {"use_sliding_window", "false"},
                            {"decoder_sparse_step", "1"},
                            {"norm_topk_prob", "false"}},
                 .reads = {"attention_bias", "num_experts", "num_local_experts", "norm_topk_prob",
                           "decoder_sparse_step", "mlp_only_layers"},
                 .names = Llama(),
                 .gguf_keys = {"expert_feed_forward_length"},
                 .gguf_names = Gguf({})});
  // The weights used are not normalised again: the norm behind takes out any common factor.
  all.push_back({.hf = {"Grok1ModelForCausalLM", "Grok1ForCausalLM"},
                 .gguf = "grok",
                 .properties = Properties([](ModelConfig& c) {
                   c.norm_place = NormPlace::kBeforeAndAfter;
                   c.activation = Activation::kGeluTanh;
                 }),
                 .keys = {.activation = nullptr, .experts = "num_experts", .expert_ffn = "intermediate_size"},
                 .unsaid = {{"attn_output_multiplier", "0.08838834764831845"},
                            {"embedding_multiplier_scale", "78.38367176906169"},
                            {"output_multiplier_scale", "0.5773502691896257"},
                            {"max_attn_value", "30.0"},
                            {"rms_norm_eps", "1e-5"},
                            {"num_experts_per_tok", "2"},
                            {"tie_word_embeddings", "true"}},
                 .reads = {"num_experts", "attn_output_multiplier", "embedding_multiplier_scale",
                           "output_multiplier_scale", "max_attn_value"},
                 .names = Grok(),
                 .gguf_keys = {"expert_feed_forward_length", "logit_scale", "embedding_scale", "attention.output_scale",
                               "attn_logit_softcapping", "router_logit_softcapping"},
                 .gguf_unsaid = {{"attention.output_scale", 0.08838834764831845},
                                 {"embedding_scale", 78.38367176906169},
                                 {"logit_scale", 0.5773502691896257},
                                 {"attn_logit_softcapping", 30}},
                 .gguf_names = Gguf(GgufGrok())});
}

void AddOlder(Families& all) {
  all.push_back({.hf = {"GPT2LMHeadModel"},
                 .gguf = "gpt2",
                 .properties = Gpt2Properties(),
                 .keys = {.layers = "n_layer",
                          .hidden = "n_embd",
                          .heads = "n_head",
                          .ffn = "n_inner",
                          .ffn_by_width = true,
                          .max_position = "n_positions",
                          .norm_eps = "layer_norm_epsilon",
                          .activation = "activation_function"},
                 .unsaid = {{"layer_norm_epsilon", "1e-5"},
                            {"activation_function", "\"gelu_new\""},
                            {"tie_word_embeddings", "true"}},
                 .names = Gpt2(),
                 .gguf_names = Gguf(GgufQkv())});
  all.push_back({.hf = {"BertModel", "BertForMaskedLM"},
                 .gguf = "bert",
                 .properties = BertProperties(),
                 .keys = {.norm_eps = "layer_norm_eps"},
                 .unsaid = {{"layer_norm_eps", "1e-12"}, {"hidden_act", "\"gelu\""}},
                 .names = Bert(),
                 .gguf_keys = {"pooling_type"},
                 .gguf_names = Gguf(GgufBert())});
}

Families MakeFamilies() {
  Families all;
  AddLlamas(all);
  AddGemmas(all);
  AddMixtures(all);
  AddOlder(all);
  return all;
}

const Families& AllFamilies() {
  static const Families* const all = new Families(MakeFamilies());
  return *all;
}

}  // namespace

bool Family::Reads(std::string_view key) const {
  return std::any_of(reads.begin(), reads.end(), [&](const char* k) { return key == k; });
}

const Family* FindHfFamily(std::string_view architecture) {
  for (const Family& family : AllFamilies()) {
    for (const char* name : family.hf) {
      if (architecture == name) return &family;
    }
  }
  return nullptr;
}

const Family* FindGgufFamily(std::string_view architecture) {
  for (const Family& family : AllFamilies()) {
    if (family.gguf != nullptr && architecture == family.gguf) return &family;
  }
  return nullptr;
}

absl::Status UnknownArchitecture(std::string_view name) {
  return absl::InvalidArgumentError(
      absl::StrCat("architecture \"", std::string(name),
                   "\" is not supported; known ones are: ", absl::StrJoin(KnownArchitectures(), ", ")));
}

StoredNames NamesOf(std::string_view architecture) {
  if (const Family* family = FindHfFamily(architecture); family != nullptr) return family->names;
  const Family* family = FindGgufFamily(architecture);
  return family == nullptr ? StoredNames() : family->gguf_names;
}

std::vector<std::string> KnownArchitectures() {
  std::vector<std::string> names;
  for (const Family& f : AllFamilies()) {
    names.insert(names.end(), f.hf.begin(), f.hf.end());
    if (f.gguf != nullptr) names.push_back(absl::StrCat(f.gguf, " (GGUF)"));
  }
  return names;
}

void SetKinds(const Family& family, const std::vector<bool>& sliding, int32_t window,
              const std::vector<bool>& with_experts, ModelConfig* c) {
  size_t experts = 0;
  for (size_t i = 0; i < sliding.size(); ++i) {
    experts += with_experts[i] ? 1 : 0;
    c->kinds.push_back({.window = sliding[i] ? window : 0,
                        .other_rope = sliding[i] && family.other_rope_in_windows,
                        .has_experts = with_experts[i]});
  }
  if (experts == 0) c->experts = Experts();
  if (experts > 0 && experts == c->kinds.size()) c->ffn = 0;
  if (std::all_of(c->kinds.begin(), c->kinds.end(), [](const LayerKind& k) { return k == LayerKind(); })) {
    c->kinds.clear();
  }
}

absl::StatusOr<ModelConfig> FinishConfig(const std::string& source, ModelConfig config,
                                         std::vector<std::string> problems) {
  // Values that were not even found would only be reported again as zeros.
  if (problems.empty()) problems = CheckConfig(config);
  if (problems.empty()) return config;
  return absl::InvalidArgumentError(absl::StrCat(source, ":\n  ", absl::StrJoin(problems, "\n  ")));
}

}  // namespace shoal::model
