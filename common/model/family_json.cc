// Tested by: tests/model/families_test.cc
// config.json, as the row of its family says.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "boost/json.hpp"
#include "common/base/status_macros.h"
#include "common/model/families.h"
#include "common/model/family.h"
#include "common/model/json_util.h"
#include "common/model/quantization.h"

namespace shoal::model {
namespace {

namespace json = boost::json;

using Problems = std::vector<std::string>;

// Keys that change what transformers computes in some family, and the only value under which a family that does not
// read them (Family::reads) computes what is computed here. Anything else is refused by name. Keys that no
// implementation reads are ignored.
struct Neutral {
  const char* key;
  const char* value;                      // as JSON; null and absence are always neutral
  bool ModelConfig::*property = nullptr;  // then it is what the family has, said once more
};
constexpr Neutral kNeutral[] = {{"attention_bias", "false"},
                                {"mlp_bias", "false"},
                                {"qkv_bias", "false"},
                                {"rope_interleaved", "false"},
                                {"partial_rotary_factor", "1.0"},
                                {"attn_logit_softcapping", "null"},
                                {"final_logit_softcapping", "null"},
                                {"num_local_experts", "0"},
                                {"num_experts", "0"},
                                {"clip_qkv", "null"},
                                {"alibi", "false"},
                                {"use_qk_norm", "false", &ModelConfig::qk_norm},
                                {"qk_layernorm", "false", &ModelConfig::qk_norm},
                                {"no_rope_layers", "null"},
                                {"use_mrope", "false"},
                                {"use_bidirectional_attention", "false"},
                                {"scale_attn_weights", "true"},
                                {"scale_attn_by_inverse_layer_idx", "false"},
                                {"position_embedding_type", "\"absolute\""},
                                {"is_decoder", "false"},
                                {"is_encoder_decoder", "false"},
                                {"add_cross_attention", "false"}};

// Numbers that are a property as they stand.
struct Number {
  const char* key;
  float ModelConfig::*property;
};
constexpr Number kNumbers[] = {{"attn_logit_softcapping", &ModelConfig::attention_soft_cap},
                               {"max_attn_value", &ModelConfig::attention_soft_cap},
                               {"final_logit_softcapping", &ModelConfig::logit_soft_cap},
                               {"attn_output_multiplier", &ModelConfig::attention_scale},
                               {"embedding_multiplier_scale", &ModelConfig::embedding_scale},
                               {"output_multiplier_scale", &ModelConfig::logit_scale}};

struct NamedActivation {
  const char* name;
  Activation activation;
};
// gelu_new and gelu_fast are the tanh form in other words.
constexpr NamedActivation kActivations[] = {
    {"silu", Activation::kSilu},          {"swish", Activation::kSilu},
    {"gelu", Activation::kGelu},          {"gelu_new", Activation::kGeluTanh},
    {"gelu_fast", Activation::kGeluTanh}, {"gelu_pytorch_tanh", Activation::kGeluTanh}};

// Look-ups that collect what is wrong instead of stopping at it.
class JsonConfig {
 public:
  JsonConfig(const json::object& object, Problems* problems) : object_(object), problems_(problems) {}

  const json::object& object() const { return object_; }
  void Problem(std::string text) const { problems_->push_back(std::move(text)); }
  Problems* problems() const { return problems_; }
  bool Has(std::string_view key) const { return FindValue(object_, key) != nullptr; }

  int32_t Int(std::string_view key, std::optional<int32_t> otherwise = std::nullopt) const {
    if (otherwise.has_value() && !Has(key)) return *otherwise;
    const int64_t wide = Take(JsonInt(object_, key));
    if (std::in_range<int32_t>(wide)) return static_cast<int32_t>(wide);
    Problem(absl::StrCat("\"", std::string(key), "\" is ", wide, ", far out of range"));
    return 0;
  }
  double Float(std::string_view key, std::optional<double> otherwise = std::nullopt) const {
    if (otherwise.has_value() && !Has(key)) return *otherwise;
    return Take(JsonFloat(object_, key));
  }
  bool Bool(std::string_view key, bool otherwise) const {
    const json::value* value = FindValue(object_, key);
    if (value == nullptr) return otherwise;
    if (const bool* b = value->if_bool()) return *b;
    Problem(absl::StrCat("\"", std::string(key), "\" is not a boolean"));
    return otherwise;
  }
  std::string String(std::string_view key, const std::string& otherwise) const {
    return Has(key) ? Take(JsonString(object_, key)) : otherwise;
  }
  // Empty when there is none.
  std::vector<double> Floats(std::string_view key) const {
    std::vector<double> out;
    const json::value* value = FindValue(object_, key);
    if (value == nullptr) return out;
    const json::array list = value->is_array() ? value->get_array() : json::array{nullptr};
    for (const json::value& v : list) {
      if (!v.is_number()) {
        Problem(absl::StrCat("\"", std::string(key), "\" is not a list of numbers"));
        return {};
      }
      out.push_back(v.to_number<double>());
    }
    return out;
  }

 private:
  template <typename T>
  T Take(absl::StatusOr<T> value) const {
    if (value.ok()) return *std::move(value);
    Problem(std::string(value.status().message()));
    return T();
  }

  const json::object& object_;
  Problems* problems_;
};

std::string Shown(const json::value& value) { return json::serialize(value).substr(0, 60); }

void RefuseUnsupported(const Family& family, const JsonConfig& in) {
  for (const Neutral& n : kNeutral) {
    const json::value* value = FindValue(in.object(), n.key);
    if (value == nullptr || family.Reads(n.key)) continue;
    const bool has = n.property != nullptr && family.properties.*n.property;
    const json::value neutral = has ? json::value(true) : json::parse(n.value);
    const bool same_number =
        value->is_number() && neutral.is_number() && value->to_number<double>() == neutral.to_number<double>();
    if (*value == neutral || same_number) continue;
    in.Problem(absl::StrCat("\"", n.key, "\": ", Shown(*value), " is not supported"));
  }
  if (const absl::Status quantised = MatrixType(in.object()).status(); !quantised.ok()) {
    in.Problem(std::string(quantised.message()));
  }
}

void ReadActivation(const Family& family, const JsonConfig& in, ModelConfig* c) {
  const char* key = family.keys.activation;
  if (key == nullptr) return;
  const std::string name = in.String(key, "silu");
  for (const NamedActivation& known : kActivations) {
    if (name == known.name) {
      c->activation = known.activation;
      return;
    }
  }
  in.Problem(absl::StrCat("\"", key, "\": \"", name.substr(0, 60), "\" is not supported; silu and gelu are"));
}

// ---- layers ----

// The config's own list, [layers]; nullopt when it has none or a bad one.
std::optional<std::vector<bool>> LayerTypes(const JsonConfig& in, int32_t layers) {
  const json::value* types = FindValue(in.object(), "layer_types");
  if (types == nullptr) return std::nullopt;
  std::vector<bool> sliding;
  for (const json::value& type : types->is_array() ? types->get_array() : json::array{*types}) {
    if (type != "full_attention" && type != "sliding_attention") {
      in.Problem("\"layer_types\" has something else than \"full_attention\" and \"sliding_attention\"");
      return std::nullopt;
    }
    sliding.push_back(type == "sliding_attention");
  }
  if (sliding.size() == static_cast<size_t>(layers)) return sliding;
  in.Problem(absl::StrCat("\"layer_types\" is of ", sliding.size(), " layers, the model has ", layers));
  return std::nullopt;
}

std::vector<bool> SlidingLayers(const Family& family, const JsonConfig& in, int32_t layers) {
  const int32_t pattern =
      family.windows == Windows::kPattern ? in.Int("sliding_window_pattern", in.Int("_sliding_window_pattern", 1)) : 1;
  if (pattern < 1) in.Problem(absl::StrCat("\"sliding_window_pattern\": ", pattern));
  const int32_t first = family.windows == Windows::kLast ? in.Int("max_window_layers") : 0;
  std::vector<bool> sliding;
  for (int32_t layer = 0; layer < layers; ++layer) {
    sliding.push_back(family.windows == Windows::kAll || (family.windows == Windows::kAlternate && layer % 2 == 0) ||
                      (family.windows == Windows::kPattern && pattern >= 1 && (layer + 1) % pattern != 0) ||
                      (family.windows == Windows::kLast && layer >= first));
  }
  return sliding;
}

std::vector<bool> ExpertLayers(const Family& family, const JsonConfig& in, int32_t layers) {
  std::vector<bool> out(static_cast<size_t>(layers), family.keys.experts != nullptr);
  if (!family.Reads("decoder_sparse_step")) return out;
  const int32_t step = in.Int("decoder_sparse_step");
  if (step < 1) {
    in.Problem(absl::StrCat("\"decoder_sparse_step\": ", step));
    return out;
  }
  for (int32_t layer = 0; layer < layers; ++layer) out[static_cast<size_t>(layer)] = (layer + 1) % step == 0;
  for (const double layer : in.Floats("mlp_only_layers")) {
    if (layer >= 0 && layer < layers) out[static_cast<size_t>(layer)] = false;
  }
  return out;
}

void ReadExperts(const Family& family, const JsonConfig& in, ModelConfig* c) {
  if (family.keys.experts == nullptr) return;
  // transformers has one name for the other's value.
  const char* other = std::string_view(family.keys.experts) == "num_experts" ? "num_local_experts" : "num_experts";
  c->experts.count = in.Has(family.keys.experts) ? in.Int(family.keys.experts) : in.Int(other);
  c->experts.used = in.Int("num_experts_per_tok");
  c->experts.ffn = in.Int(family.keys.expert_ffn);
  if (family.Reads("norm_topk_prob")) c->experts.renormalise = in.Bool("norm_topk_prob", false);
}

void ReadLayers(const Family& family, const JsonConfig& in, ModelConfig* c) {
  // Far above any model; what CheckConfig will refuse anyway is not listed layer by layer.
  constexpr int32_t kMost = 1 << 16;
  ReadExperts(family, in, c);
  if (c->layers < 1 || c->layers > kMost) return;
  std::vector<bool> sliding = SlidingLayers(family, in, c->layers);
  if (const std::optional<std::vector<bool>> types = LayerTypes(in, c->layers); types.has_value()) {
    if (!family.Reads("layer_types") && *types != sliding) {
      in.Problem("\"layer_types\" is not what this architecture has");
    }
    sliding = *types;
  }
  int32_t window = in.Bool("use_sliding_window", true) ? in.Int("sliding_window", 0) : 0;
  if (window < 0) in.Problem(absl::StrCat("\"sliding_window\": ", window));
  if (window >= c->max_position) window = 0;  // it masks nothing
  if (family.windows == Windows::kNone && window != 0) {
    in.Problem("\"sliding_window\" is set; this architecture has full attention only");
  }
  SetKinds(family, sliding, window, ExpertLayers(family, in, c->layers), c);
}

// ---- rotation ----

// transformers' names: linear, llama3 (Llama 3.1), longrope (Phi-3 of 128 k; "su" at first).
void ReadScaling(const JsonConfig& in, const JsonConfig& s, int32_t max_position, Rope* rope) {
  const std::string type = s.String("rope_type", s.String("type", "default"));
  if (type == "default") return;
  if (type == "linear") {
    rope->scaling = RopeScaling::kLinear;
    rope->factor = s.Float("factor");
  } else if (type == "llama3") {
    rope->scaling = RopeScaling::kLlama3;
    rope->factor = s.Float("factor");
    rope->low_freq_factor = s.Float("low_freq_factor");
    rope->high_freq_factor = s.Float("high_freq_factor");
    rope->original_max_position = s.Int("original_max_position_embeddings");
  } else if (type == "longrope" || type == "su") {
    rope->scaling = RopeScaling::kLongRope;
    rope->short_factors = s.Floats("short_factor");
    rope->long_factors = s.Floats("long_factor");
    const char* key = "original_max_position_embeddings";
    rope->original_max_position = in.Has(key) ? in.Int(key) : s.Int(key, max_position);
    // Ding et al.: sqrt(1 + ln(s) / ln(original context)), s: by how much the context is longer.
    const double original = rope->original_max_position, factor = s.Float("factor", max_position / original);
    const double amplitude = factor <= 1 ? 1.0 : std::sqrt(1 + std::log(factor) / std::log(original));
    rope->amplitude = s.Float("attention_factor", amplitude);
  } else {
    in.Problem(absl::StrCat("rope scaling (\"rope_scaling\", \"rope_parameters\") of type \"", type.substr(0, 60),
                            "\" is not supported; default, linear, llama3 and longrope are"));
  }
}

// Three spellings: rope_theta beside rope_scaling {"type"} (old) or {"rope_type"}, and all of it in rope_parameters,
// there also for each type of layer.
void ReadRope(const Family& family, const JsonConfig& in, ModelConfig* c) {
  if (c->learned_positions) return;
  Rope& rope = c->rope;
  Rope& other = c->other_rope;
  rope.theta = in.Float("rope_theta", 10000.0);
  other.theta = in.Float("rope_local_base_freq", 10000.0);
  double partial = in.Float("partial_rotary_factor", 1.0);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const json::value* value = FindValue(in.object(), key);
    if (value == nullptr) continue;
    if (!value->is_object()) {
      in.Problem(absl::StrCat("\"", key, "\" is not an object"));
      continue;
    }
    const auto read = [&](const json::object& object, Rope* out) {
      const JsonConfig s(object, in.problems());
      out->theta = s.Float("rope_theta", out->theta);
      partial = s.Float("partial_rotary_factor", partial);
      ReadScaling(in, s, c->max_position, out);
    };
    const json::value* full = FindValue(value->get_object(), "full_attention");
    const json::value* sliding = FindValue(value->get_object(), "sliding_attention");
    if (full == nullptr && sliding == nullptr) read(value->get_object(), &rope);
    if (full != nullptr && full->is_object()) read(full->get_object(), &rope);
    if (sliding != nullptr && sliding->is_object()) read(sliding->get_object(), &other);
    if (sliding != nullptr && !family.other_rope_in_windows) {
      in.Problem(absl::StrCat("\"", key, "\" differs between layers; this architecture has one for all"));
    }
  }
  if (partial != 1.0 && !family.Reads("partial_rotary_factor")) {
    in.Problem("partial_rotary_factor is not supported for this architecture");
  }
  if (!(partial > 0 && partial <= 1)) {
    in.Problem(absl::StrCat("\"partial_rotary_factor\": ", partial));
    return;
  }
  rope.dim = static_cast<int32_t>(c->head_dim * partial);
  if (family.other_rope_in_windows) {
    other.dim = rope.dim;
  } else {
    other = Rope();
  }
}

// ---- tokens ----

// eos_token_id: a number, a list, or null.
void AddEos(const JsonConfig& in, std::vector<int32_t>* eos) {
  const json::value* value = FindValue(in.object(), "eos_token_id");
  if (value == nullptr) return;
  const json::array list = value->is_array() ? value->get_array() : json::array{*value};
  for (const json::value& v : list) {
    const int64_t* id = v.if_int64();
    if (id == nullptr || *id < 0 || *id > std::numeric_limits<int32_t>::max()) {
      in.Problem("\"eos_token_id\" is neither a token nor a list of tokens");
      return;
    }
    const auto token = static_cast<int32_t>(*id);
    if (std::find(eos->begin(), eos->end(), token) == eos->end()) eos->push_back(token);
  }
}

absl::StatusOr<const Family*> FamilyOf(const json::object& object, std::string* name) {
  const json::value* value = FindValue(object, "architectures");
  if (value == nullptr || !value->is_array() || value->get_array().size() != 1 || !value->get_array()[0].is_string()) {
    return absl::InvalidArgumentError("config.json: \"architectures\" does not name exactly one architecture");
  }
  const json::string& found = value->get_array()[0].get_string();
  name->assign(found.data(), found.size());
  const Family* family = FindHfFamily(*name);
  if (family == nullptr) return UnknownArchitecture(*name);
  return family;
}

// The part about text of a model that has others, with what stands beside it; and what is unsaid.
json::object Complete(const Family& family, const json::object& object) {
  json::object out = object;
  const json::value* text = FindValue(object, "text_config");
  if (text != nullptr && text->is_object()) {
    out = text->get_object();
    for (const auto& entry : object) {
      if (entry.key() != "text_config" && !out.contains(entry.key())) out[entry.key()] = entry.value();
    }
  }
  for (const Unsaid& unsaid : family.unsaid) {
    if (!out.contains(unsaid.key)) out[unsaid.key] = json::parse(unsaid.value);
  }
  return out;
}

void ReadSizes(const Family& family, const JsonConfig& in, ModelConfig* c) {
  const JsonKeys& keys = family.keys;
  c->layers = in.Int(keys.layers);
  c->hidden = in.Int(keys.hidden);
  c->heads = in.Int(keys.heads);
  c->kv_heads = in.Int("num_key_value_heads", c->heads);
  if (!in.Has("head_dim") && (c->heads <= 0 || c->hidden % c->heads != 0)) {
    in.Problem(
        absl::StrCat("\"", keys.hidden, "\" is no multiple of \"", keys.heads, "\", and \"head_dim\" is not given"));
  } else {
    c->head_dim = in.Int("head_dim", c->heads > 0 ? c->hidden / c->heads : 0);
  }
  const bool by_width = keys.ffn_by_width && c->hidden > 0 && c->hidden < (1 << 28);
  c->ffn = by_width ? in.Int(keys.ffn, 4 * c->hidden) : in.Int(keys.ffn);
  c->vocab = in.Int("vocab_size");
  c->max_position = in.Int(keys.max_position);
  c->norm_eps = static_cast<float>(in.Float(keys.norm_eps));
}

void ReadProperties(const Family& family, const JsonConfig& in, ModelConfig* c) {
  c->attention_scale = c->head_dim > 0 ? 1.0f / std::sqrt(static_cast<float>(c->head_dim)) : 0.0f;
  if (family.Reads("query_pre_attn_scalar")) {
    c->attention_scale = static_cast<float>(1.0 / std::sqrt(in.Float("query_pre_attn_scalar")));
  }
  // As transformers and llama.cpp compute in f32; in bf16, transformers rounds it to bf16.
  if (family.embedding_by_width) c->embedding_scale = std::sqrt(static_cast<float>(std::max(c->hidden, 0)));
  for (const Number& number : kNumbers) {
    if (family.Reads(number.key) && in.Has(number.key)) c->*number.property = static_cast<float>(in.Float(number.key));
  }
  if (family.Reads("attention_bias")) c->qkv_bias = c->output_bias = in.Bool("attention_bias", false);
  if (family.Reads("mlp_bias")) c->ffn_bias = in.Bool("mlp_bias", false);
  c->tied_embeddings = c->has_head() && in.Bool("tie_word_embeddings", false);
  ReadActivation(family, in, c);
}

}  // namespace

absl::StatusOr<ModelConfig> ConfigFromJson(std::string_view config_json, std::string_view generation_config_json) {
  SHOAL_ASSIGN_OR_RETURN(const json::object stored, ParseObject(config_json, "config.json"));
  std::string architecture;
  SHOAL_ASSIGN_OR_RETURN(const Family* const family, FamilyOf(stored, &architecture));
  const json::object object = Complete(*family, stored);
  Problems problems;
  const JsonConfig in(object, &problems);
  ModelConfig c = family->properties;
  c.architecture = architecture;
  ReadSizes(*family, in, &c);
  ReadProperties(*family, in, &c);
  ReadRope(*family, in, &c);
  ReadLayers(*family, in, &c);
  RefuseUnsupported(*family, in);
  c.bos_token = in.Int("bos_token_id", -1);
  AddEos(in, &c.eos_tokens);
  if (!generation_config_json.empty()) {
    SHOAL_ASSIGN_OR_RETURN(const json::object generation,
                           ParseObject(generation_config_json, "generation_config.json"));
    AddEos(JsonConfig(generation, &problems), &c.eos_tokens);
  }
  return FinishConfig("config.json", std::move(c), std::move(problems));
}

}  // namespace shoal::model
