#include "common/model/families.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "boost/json.hpp"
#include "common/base/status_macros.h"
#include "common/model/json_util.h"
#include "common/model/quantization.h"

namespace shoal::model {
namespace {

namespace json = boost::json;

// A family: what its files are called, and what they may leave unsaid.
struct Family {
  const char* hf_architecture;    // config.json "architectures"
  const char* gguf_architecture;  // GGUF general.architecture, and the prefix of its keys
  bool gguf_interleaved;          // GGUF converters permute the rows of q and k for rotary pairs (2i, 2i + 1)
};
// LlamaForCausalLM: Llama 2, 3, 3.1, 3.2, 3.3, SmolLM2, and whatever else names it.
constexpr Family kFamilies[] = {{"LlamaForCausalLM", "llama", true}};

// What config.json may set, and the only values under which this decoder computes what transformers' implementation
// of the family computes. Anything else is refused by name. Keys that that implementation does not read are ignored.
struct Neutral {
  const char* key;
  const char* value;  // as JSON; null and absence are always neutral
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
                                {"use_qk_norm", "false"},
                                {"qk_layernorm", "false"},
                                {"no_rope_layers", "null"},
                                {"is_encoder_decoder", "false"},
                                {"add_cross_attention", "false"}};

// GGUF keys below "<architecture>." that are read here, or that change nothing.
constexpr const char* kGgufKeys[] = {"context_length",
                                     "embedding_length",
                                     "block_count",
                                     "feed_forward_length",
                                     "vocab_size",
                                     "tensor_data_layout",
                                     "attention.head_count",
                                     "attention.head_count_kv",
                                     "attention.layer_norm_rms_epsilon",
                                     "attention.key_length",
                                     "attention.value_length",
                                     "attention.causal",
                                     "rope.dimension_count",
                                     "rope.freq_base",
                                     "rope.scaling.type",
                                     "rope.scaling.factor",
                                     "rope.scaling.original_context_length",
                                     "rope.scale_linear",
                                     "expert_count",
                                     "expert_used_count"};

using Problems = std::vector<std::string>;

absl::StatusOr<ModelConfig> Finish(const std::string& source, ModelConfig config, Problems problems) {
  // Values that were not even found would only be reported again as zeros.
  if (problems.empty()) problems = CheckConfig(config);
  if (problems.empty()) return config;
  return absl::InvalidArgumentError(absl::StrCat(source, ":\n  ", absl::StrJoin(problems, "\n  ")));
}

absl::Status UnknownArchitecture(const std::string& name) {
  return absl::InvalidArgumentError(absl::StrCat(
      "architecture \"", name, "\" is not supported; known ones are: ", absl::StrJoin(KnownArchitectures(), ", ")));
}

// ---- config.json ----

// Look-ups that collect what is wrong instead of stopping at it.
class JsonConfig {
 public:
  JsonConfig(const json::object& object, Problems* problems) : object_(object), problems_(problems) {}

  const json::object& object() const { return object_; }
  Problems* problems() const { return problems_; }
  bool Has(std::string_view key) const { return FindValue(object_, key) != nullptr; }

  int32_t Int(std::string_view key, std::optional<int32_t> otherwise = std::nullopt) const {
    if (otherwise.has_value() && !Has(key)) return *otherwise;
    return Narrow(key, JsonInt(object_, key));
  }
  double Float(std::string_view key, std::optional<double> otherwise = std::nullopt) const {
    if (otherwise.has_value() && !Has(key)) return *otherwise;
    return Take(JsonFloat(object_, key));
  }
  bool Bool(std::string_view key, bool otherwise) const {
    const json::value* value = FindValue(object_, key);
    if (value == nullptr) return otherwise;
    if (const bool* b = value->if_bool()) return *b;
    problems_->push_back(absl::StrCat("\"", std::string(key), "\" is not a boolean"));
    return otherwise;
  }
  std::string String(std::string_view key, const std::string& otherwise) const {
    return Has(key) ? Take(JsonString(object_, key)) : otherwise;
  }

 private:
  template <typename T>
  T Take(absl::StatusOr<T> value) const {
    if (value.ok()) return *std::move(value);
    problems_->push_back(std::string(value.status().message()));
    return T();
  }
  int32_t Narrow(std::string_view key, absl::StatusOr<int64_t> value) const {
    const int64_t wide = Take(std::move(value));
    if (std::in_range<int32_t>(wide)) return static_cast<int32_t>(wide);
    problems_->push_back(absl::StrCat("\"", std::string(key), "\" is ", wide, ", far out of range"));
    return 0;
  }

  const json::object& object_;
  Problems* problems_;
};

void RefuseUnsupported(const JsonConfig& in, int32_t max_position) {
  for (const Neutral& n : kNeutral) {
    const json::value* value = FindValue(in.object(), n.key);
    if (value == nullptr) continue;
    const json::value neutral = json::parse(n.value);
    const bool same_number =
        value->is_number() && neutral.is_number() && value->to_number<double>() == neutral.to_number<double>();
    if (*value == neutral || same_number) continue;
    const std::string shown = json::serialize(*value);
    in.problems()->push_back(absl::StrCat("\"", n.key, "\": ", shown.substr(0, 60), " is not supported"));
  }
  if (const absl::Status quantised = MatrixType(in.object()).status(); !quantised.ok()) {
    in.problems()->push_back(std::string(quantised.message()));
  }
  const std::string activation = in.String("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    in.problems()->push_back(absl::StrCat("\"hidden_act\": \"", activation, "\" is not supported; \"silu\" is"));
  }
  // A window at least as long as the context masks nothing.
  if (in.Has("sliding_window") && in.Bool("use_sliding_window", true) && in.Int("sliding_window") < max_position) {
    in.problems()->push_back("\"sliding_window\" is set; only full attention is supported");
  }
  if (const json::value* types = FindValue(in.object(), "layer_types"); types != nullptr) {
    const bool full = types->is_array() && std::all_of(types->get_array().begin(), types->get_array().end(),
                                                       [](const json::value& t) { return t == "full_attention"; });
    if (!full) in.problems()->push_back("\"layer_types\" has something else than \"full_attention\"");
  }
}

// Three spellings: rope_theta beside rope_scaling {"type"} (old) or {"rope_type"}, and all of it in rope_parameters.
void ReadRope(const JsonConfig& in, Rope* rope) {
  rope->theta = in.Float("rope_theta", 10000.0);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const json::value* value = FindValue(in.object(), key);
    if (value == nullptr) continue;
    if (!value->is_object()) {
      in.problems()->push_back(absl::StrCat("\"", key, "\" is not an object"));
      continue;
    }
    const JsonConfig s(value->get_object(), in.problems());
    rope->theta = s.Float("rope_theta", rope->theta);
    const std::string type = s.String("rope_type", s.String("type", "default"));
    if (s.Float("partial_rotary_factor", 1.0) != 1.0) {
      in.problems()->push_back(absl::StrCat("\"", key, "\": partial_rotary_factor is not supported"));
    }
    if (type == "default") continue;
    if (type == "linear") {
      rope->scaling = RopeScaling::kLinear;
    } else if (type == "llama3") {
      rope->scaling = RopeScaling::kLlama3;
      rope->low_freq_factor = s.Float("low_freq_factor");
      rope->high_freq_factor = s.Float("high_freq_factor");
      rope->original_max_position = s.Int("original_max_position_embeddings");
    } else {
      in.problems()->push_back(
          absl::StrCat("\"", key, "\": type \"", type, "\" is not supported; default, linear and llama3 are"));
      continue;
    }
    rope->factor = s.Float("factor");
  }
}

// eos_token_id: a number, a list, or null.
void AddEos(const JsonConfig& in, std::vector<int32_t>* eos) {
  const json::value* value = FindValue(in.object(), "eos_token_id");
  if (value == nullptr) return;
  const json::array list = value->is_array() ? value->get_array() : json::array{*value};
  for (const json::value& v : list) {
    const int64_t* id = v.if_int64();
    if (id == nullptr || *id < 0 || *id > std::numeric_limits<int32_t>::max()) {
      in.problems()->push_back("\"eos_token_id\" is neither a token nor a list of tokens");
      return;
    }
    const auto token = static_cast<int32_t>(*id);
    if (std::find(eos->begin(), eos->end(), token) == eos->end()) eos->push_back(token);
  }
}

absl::Status CheckArchitecture(const json::object& object, std::string* name) {
  const json::value* value = FindValue(object, "architectures");
  if (value == nullptr || !value->is_array() || value->get_array().size() != 1 || !value->get_array()[0].is_string()) {
    return absl::InvalidArgumentError("config.json: \"architectures\" does not name exactly one architecture");
  }
  const json::string& found = value->get_array()[0].get_string();
  name->assign(found.data(), found.size());
  const bool known = std::any_of(std::begin(kFamilies), std::end(kFamilies),
                                 [&](const Family& f) { return *name == f.hf_architecture; });
  return known ? absl::OkStatus() : UnknownArchitecture(*name);
}

// ---- GGUF ----

class GgufConfig {
 public:
  GgufConfig(const GgufFile& file, std::string prefix, Problems* problems)
      : file_(file), prefix_(std::move(prefix) + "."), problems_(problems) {}

  bool Has(const char* key) const { return file_.Has(prefix_ + key); }
  int32_t Int(const char* key, std::optional<int32_t> otherwise = std::nullopt) const {
    if (otherwise.has_value() && !Has(key)) return *otherwise;
    const absl::StatusOr<int64_t> value = file_.GetInt(prefix_ + key);
    if (value.ok() && std::in_range<int32_t>(*value)) return static_cast<int32_t>(*value);
    problems_->push_back(value.ok() ? absl::StrCat(prefix_, key, " is ", *value, ", far out of range")
                                    : std::string(value.status().message()));
    return 0;
  }
  double Float(const char* key, std::optional<double> otherwise = std::nullopt) const {
    if (otherwise.has_value() && !Has(key)) return *otherwise;
    const absl::StatusOr<double> value = file_.GetFloat(prefix_ + key);
    if (value.ok()) return *value;
    problems_->push_back(std::string(value.status().message()));
    return 0;
  }
  std::string String(const char* key, const char* otherwise) const {
    if (!Has(key)) return otherwise;
    const absl::StatusOr<std::string_view> value = file_.GetString(prefix_ + key);
    if (value.ok()) return std::string(*value);
    problems_->push_back(std::string(value.status().message()));
    return otherwise;
  }
  void RefuseUnknownKeys() const {
    std::vector<std::string> unknown;
    for (const auto& [key, value] : file_.metadata()) {
      if (!absl::StartsWith(key, prefix_)) continue;
      const std::string rest = key.substr(prefix_.size());
      if (std::none_of(std::begin(kGgufKeys), std::end(kGgufKeys), [&](const char* k) { return rest == k; })) {
        unknown.push_back(absl::StrCat("metadata key ", key, " is not supported"));
      }
    }
    std::sort(unknown.begin(), unknown.end());
    problems_->insert(problems_->end(), unknown.begin(), unknown.end());
  }

 private:
  const GgufFile& file_;
  const std::string prefix_;
  Problems* problems_;
};

// llama.cpp's converter writes Llama 3.1's scaling not as parameters but as rope_freqs.weight: by how much each
// frequency is divided, f32 [rope dim / 2]. The parameters that every such model was published with are low 1, high 4
// and an original context of 8,192; the factor is the largest division. If these do not give back the tensor, it is
// refused.
absl::Status ReadRopeFreqs(const GgufFile& file, Rope* rope) {
  const TensorEntry* entry = file.Find("rope_freqs.weight");
  if (entry == nullptr) return absl::OkStatus();
  if (entry->dtype != DType::kF32 || entry->shape != std::vector<int64_t>{rope->dim / 2}) {
    return absl::InvalidArgumentError("rope_freqs.weight is not f32 with one element per rotated pair");
  }
  std::vector<float> divisors(static_cast<size_t>(rope->dim / 2));
  SHOAL_RETURN_IF_ERROR(file.Read(*entry, 0, std::as_writable_bytes(std::span(divisors))));
  Rope plain = *rope;
  plain.scaling = RopeScaling::kNone;
  Rope scaled = *rope;
  scaled.scaling = RopeScaling::kLlama3;
  scaled.factor = *std::max_element(divisors.begin(), divisors.end());
  scaled.low_freq_factor = 1.0;
  scaled.high_freq_factor = 4.0;
  scaled.original_max_position = 8192;
  const std::vector<double> before = plain.InverseFrequencies(), after = scaled.InverseFrequencies();
  bool all_one = true, all_match = rope->scaling == RopeScaling::kNone;
  for (size_t i = 0; i < divisors.size(); ++i) {
    all_one &= divisors[i] == 1.0f;
    // 1e-4: the tensor holds f32, computed by the converter in f32.
    all_match &= std::abs(before[i] / after[i] - divisors[i]) <= 1e-4 * std::abs(divisors[i]);
  }
  if (all_one) return absl::OkStatus();
  if (!all_match) return absl::InvalidArgumentError("rope_freqs.weight is not the scaling of the Llama 3.1 family");
  *rope = scaled;
  return absl::OkStatus();
}

void ReadGgufRope(const GgufFile& file, const GgufConfig& in, const ModelConfig& c, Rope* rope, Problems* problems) {
  rope->dim = in.Int("rope.dimension_count", c.head_dim);
  rope->theta = in.Float("rope.freq_base", 10000.0);
  const double old_linear = in.Float("rope.scale_linear", 1.0);
  const std::string type = in.String("rope.scaling.type", old_linear != 1.0 ? "linear" : "none");
  if (type == "linear") {
    rope->scaling = RopeScaling::kLinear;
    rope->factor = in.Float("rope.scaling.factor", old_linear);
  } else if (type != "none") {
    problems->push_back(absl::StrCat("rope scaling of type \"", type, "\" is not supported; none and linear are"));
  }
  if (rope->dim <= 0 || rope->dim > c.head_dim || rope->dim % 2 != 0 || !problems->empty()) return;  // CheckConfig's
  if (const absl::Status s = ReadRopeFreqs(file, rope); !s.ok()) problems->push_back(std::string(s.message()));
}

void ReadGgufTokens(const GgufFile& file, ModelConfig* c, Problems* problems) {
  const auto token = [&](const char* key) -> int32_t {
    if (!file.Has(key)) return -1;
    const absl::StatusOr<int64_t> id = file.GetInt(key);
    if (id.ok() && *id >= 0 && *id <= std::numeric_limits<int32_t>::max()) return static_cast<int32_t>(*id);
    problems->push_back(absl::StrCat(key, " is not a token"));
    return -1;
  };
  c->bos_token = token("tokenizer.ggml.bos_token_id");
  for (const char* key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    const int32_t id = token(key);
    if (id >= 0 && std::find(c->eos_tokens.begin(), c->eos_tokens.end(), id) == c->eos_tokens.end()) {
      c->eos_tokens.push_back(id);
    }
  }
}

}  // namespace

absl::StatusOr<ModelConfig> ConfigFromJson(std::string_view config_json, std::string_view generation_config_json) {
  SHOAL_ASSIGN_OR_RETURN(const json::object object, ParseObject(config_json, "config.json"));
  ModelConfig c;
  SHOAL_RETURN_IF_ERROR(CheckArchitecture(object, &c.architecture));
  Problems problems;
  const JsonConfig in(object, &problems);
  c.layers = in.Int("num_hidden_layers");
  c.hidden = in.Int("hidden_size");
  c.heads = in.Int("num_attention_heads");
  c.kv_heads = in.Int("num_key_value_heads", c.heads);
  if (!in.Has("head_dim") && (c.heads <= 0 || c.hidden % c.heads != 0)) {
    problems.push_back("\"hidden_size\" is no multiple of \"num_attention_heads\", and \"head_dim\" is not given");
  } else {
    c.head_dim = in.Int("head_dim", c.heads > 0 ? c.hidden / c.heads : 0);
  }
  c.ffn = in.Int("intermediate_size");
  c.vocab = in.Int("vocab_size");
  c.max_position = in.Int("max_position_embeddings");
  c.norm_eps = static_cast<float>(in.Float("rms_norm_eps"));
  c.attention_scale = c.head_dim > 0 ? 1.0f / std::sqrt(static_cast<float>(c.head_dim)) : 0.0f;
  c.tied_embeddings = in.Bool("tie_word_embeddings", false);
  ReadRope(in, &c.rope);
  c.rope.dim = c.head_dim;
  RefuseUnsupported(in, c.max_position);
  c.bos_token = in.Int("bos_token_id", -1);
  AddEos(in, &c.eos_tokens);
  if (!generation_config_json.empty()) {
    SHOAL_ASSIGN_OR_RETURN(const json::object generation,
                           ParseObject(generation_config_json, "generation_config.json"));
    AddEos(JsonConfig(generation, &problems), &c.eos_tokens);
  }
  return Finish("config.json", std::move(c), std::move(problems));
}

absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file) {
  SHOAL_ASSIGN_OR_RETURN(const std::string_view architecture, file.GetString("general.architecture"));
  ModelConfig c;
  c.architecture = std::string(architecture);
  const Family* family = std::find_if(std::begin(kFamilies), std::end(kFamilies),
                                      [&](const Family& f) { return c.architecture == f.gguf_architecture; });
  if (family == std::end(kFamilies)) return UnknownArchitecture(c.architecture);
  Problems problems;
  const GgufConfig in(file, c.architecture, &problems);
  c.layers = in.Int("block_count");
  c.hidden = in.Int("embedding_length");
  c.heads = in.Int("attention.head_count");
  c.kv_heads = in.Int("attention.head_count_kv", c.heads);
  if (!in.Has("attention.key_length") && (c.heads <= 0 || c.hidden % c.heads != 0)) {
    problems.push_back("the embedding length is no multiple of the head count, and attention.key_length is not given");
  } else {
    c.head_dim = in.Int("attention.key_length", c.heads > 0 ? c.hidden / c.heads : 0);
  }
  if (in.Int("attention.value_length", c.head_dim) != c.head_dim) {
    problems.push_back("attention.key_length and attention.value_length differ; that is not supported");
  }
  c.ffn = in.Int("feed_forward_length");
  c.max_position = in.Int("context_length");
  c.norm_eps = static_cast<float>(in.Float("attention.layer_norm_rms_epsilon"));
  c.attention_scale = c.head_dim > 0 ? 1.0f / std::sqrt(static_cast<float>(c.head_dim)) : 0.0f;
  c.tied_embeddings = file.Find("output.weight") == nullptr;
  const auto tokens = file.metadata().find("tokenizer.ggml.tokens");
  const auto* list = tokens == file.metadata().end() ? nullptr : std::get_if<std::vector<std::string>>(&tokens->second);
  const std::optional<int32_t> listed =
      list == nullptr ? std::nullopt : std::optional<int32_t>(static_cast<int32_t>(list->size()));
  c.vocab = in.Int("vocab_size", listed);
  if (in.Int("expert_count", 0) > 0) problems.push_back("mixtures of experts are not supported");
  if (file.Has(c.architecture + ".attention.causal") &&
      !file.GetBool(c.architecture + ".attention.causal").value_or(false)) {
    problems.push_back("only causal attention is supported");
  }
  in.RefuseUnknownKeys();
  ReadGgufRope(file, in, c, &c.rope, &problems);
  c.rope.interleaved = family->gguf_interleaved;
  ReadGgufTokens(file, &c, &problems);
  return Finish("GGUF metadata", std::move(c), std::move(problems));
}

std::vector<std::string> KnownArchitectures() {
  std::vector<std::string> names;
  for (const Family& f : kFamilies) {
    names.emplace_back(f.hf_architecture);
    names.push_back(absl::StrCat(f.gguf_architecture, " (GGUF)"));
  }
  return names;
}

}  // namespace shoal::model
