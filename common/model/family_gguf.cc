// Tested by: tests/model/families_test.cc
// GGUF metadata, as the row of its family says.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/families.h"
#include "common/model/family.h"

namespace shoal::model {
namespace {

using Problems = std::vector<std::string>;

// Keys below "<architecture>." that are read here, or that change nothing. Beside those of the family.
constexpr const char* kKeys[] = {"context_length",
                                 "embedding_length",
                                 "block_count",
                                 "feed_forward_length",
                                 "vocab_size",
                                 "tensor_data_layout",
                                 "attention.head_count",
                                 "attention.head_count_kv",
                                 "attention.layer_norm_epsilon",
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

// Numbers that are a property as they stand. llama.cpp reads router_logit_softcapping and computes nothing with it.
struct Number {
  const char* key;
  float ModelConfig::*property;
};
constexpr Number kNumbers[] = {{"attn_logit_softcapping", &ModelConfig::attention_soft_cap},
                               {"final_logit_softcapping", &ModelConfig::logit_soft_cap},
                               {"attention.output_scale", &ModelConfig::attention_scale},
                               {"embedding_scale", &ModelConfig::embedding_scale},
                               {"logit_scale", &ModelConfig::logit_scale}};

// Look-ups that collect what is wrong. What the family leaves unsaid is the value of a key that is absent.
class GgufConfig {
 public:
  GgufConfig(const GgufFile& file, const Family& family, Problems* problems)
      : file_(file), family_(family), prefix_(absl::StrCat(family.gguf, ".")), problems_(problems) {}

  const GgufFile& file() const { return file_; }
  void Problem(std::string text) const { problems_->push_back(std::move(text)); }
  bool Good() const { return problems_->empty(); }

  bool Has(const char* key) const { return file_.Has(prefix_ + key) || Unsaid(key) != nullptr; }
  int32_t Int(const char* key, std::optional<int32_t> otherwise = std::nullopt) const {
    if (!file_.Has(prefix_ + key)) {
      if (const double* unsaid = Unsaid(key)) return static_cast<int32_t>(*unsaid);
      if (otherwise.has_value()) return *otherwise;
    }
    const absl::StatusOr<int64_t> value = file_.GetInt(prefix_ + key);
    if (value.ok() && std::in_range<int32_t>(*value)) return static_cast<int32_t>(*value);
    Problem(value.ok() ? absl::StrCat(prefix_, key, " is ", *value, ", far out of range")
                       : std::string(value.status().message()));
    return 0;
  }
  double Float(const char* key, std::optional<double> otherwise = std::nullopt) const {
    if (!file_.Has(prefix_ + key)) {
      if (const double* unsaid = Unsaid(key)) return *unsaid;
      if (otherwise.has_value()) return *otherwise;
    }
    const absl::StatusOr<double> value = file_.GetFloat(prefix_ + key);
    if (value.ok()) return *value;
    Problem(std::string(value.status().message()));
    return 0;
  }
  std::string String(const char* key, const char* otherwise) const {
    if (!Has(key)) return otherwise;
    const absl::StatusOr<std::string_view> value = file_.GetString(prefix_ + key);
    if (value.ok()) return std::string(*value);
    Problem(std::string(value.status().message()));
    return otherwise;
  }
  bool Bool(const char* key, bool otherwise) const {
    if (!Has(key)) return otherwise;
    const absl::StatusOr<bool> value = file_.GetBool(prefix_ + key);
    if (value.ok()) return *value;
    Problem(std::string(value.status().message()));
    return otherwise;
  }
  bool MayHave(std::string_view key) const {
    const auto same = [&](const char* k) { return key == k; };
    return std::any_of(std::begin(kKeys), std::end(kKeys), same) ||
           std::any_of(family_.gguf_keys.begin(), family_.gguf_keys.end(), same);
  }
  void RefuseUnknownKeys() const {
    std::vector<std::string> unknown;
    for (const auto& [key, value] : file_.metadata()) {
      if (!absl::StartsWith(key, prefix_) || MayHave(std::string_view(key).substr(prefix_.size()))) continue;
      unknown.push_back(absl::StrCat("metadata key ", key, " is not supported"));
    }
    std::sort(unknown.begin(), unknown.end());
    problems_->insert(problems_->end(), unknown.begin(), unknown.end());
  }

 private:
  const double* Unsaid(std::string_view key) const {
    for (const UnsaidNumber& unsaid : family_.gguf_unsaid) {
      if (key == unsaid.key) return &unsaid.value;
    }
    return nullptr;
  }

  const GgufFile& file_;
  const Family& family_;
  const std::string prefix_;
  Problems* problems_;
};

// ---- rotation ----

// A tensor of rotary factors: f32 [rope dim / 2]. Empty when there is none.
absl::StatusOr<std::vector<float>> RotaryFactors(const GgufFile& file, const char* name, int32_t dim) {
  const TensorEntry* entry = file.Find(name);
  if (entry == nullptr) return std::vector<float>();
  if (entry->dtype != DType::kF32 || entry->shape != std::vector<int64_t>{dim / 2}) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is not f32 with one element per rotated pair"));
  }
  std::vector<float> factors(static_cast<size_t>(dim / 2));
  SHOAL_RETURN_IF_ERROR(file.Read(*entry, 0, std::as_writable_bytes(std::span(factors))));
  return factors;
}

// llama.cpp's converter writes Llama 3.1's scaling not as parameters but as rope_freqs.weight: by how much each
// frequency is divided. The parameters that every such model was published with are low 1, high 4 and an original
// context of 8,192; the factor is the largest division. If these do not give back the tensor, it is refused.
absl::Status ReadRopeFreqs(const GgufFile& file, Rope* rope) {
  SHOAL_ASSIGN_OR_RETURN(const std::vector<float> divisors, RotaryFactors(file, "rope_freqs.weight", rope->dim));
  if (divisors.empty()) return absl::OkStatus();
  Rope plain = *rope;
  plain.scaling = RopeScaling::kNone;
  Rope scaled = *rope;
  scaled.scaling = RopeScaling::kLlama3;
  scaled.factor = *std::max_element(divisors.begin(), divisors.end());
  scaled.low_freq_factor = 1.0;
  scaled.high_freq_factor = 4.0;
  scaled.original_max_position = 8192;
  const std::vector<double> before = plain.InverseFrequencies(0), after = scaled.InverseFrequencies(0);
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

absl::Status ReadLongRope(const GgufConfig& in, Rope* rope) {
  SHOAL_ASSIGN_OR_RETURN(const std::vector<float> shorts,
                         RotaryFactors(in.file(), "rope_factors_short.weight", rope->dim));
  SHOAL_ASSIGN_OR_RETURN(const std::vector<float> longs,
                         RotaryFactors(in.file(), "rope_factors_long.weight", rope->dim));
  if (shorts.empty() && longs.empty()) return absl::OkStatus();
  rope->scaling = RopeScaling::kLongRope;
  rope->short_factors.assign(shorts.begin(), shorts.end());
  rope->long_factors.assign(longs.begin(), longs.end());
  rope->original_max_position = in.Int("rope.scaling.original_context_length");
  rope->amplitude = in.Float("rope.scaling.attn_factor", 1.0);
  return absl::OkStatus();
}

void ReadRope(const Family& family, const GgufConfig& in, ModelConfig* c) {
  if (c->learned_positions) return;
  Rope& rope = c->rope;
  rope.dim = in.Int("rope.dimension_count", c->head_dim);
  rope.theta = in.Float("rope.freq_base", 10000.0);
  rope.interleaved = family.gguf_interleaved;
  if (family.other_rope_in_windows) {
    c->other_rope = rope;
    c->other_rope.theta = in.Float("rope.freq_base_swa", 10000.0);
  }
  const double old_linear = in.Float("rope.scale_linear", 1.0);
  const std::string type = in.String("rope.scaling.type", old_linear != 1.0 ? "linear" : "none");
  if (type == "linear") {
    rope.scaling = RopeScaling::kLinear;
    rope.factor = in.Float("rope.scaling.factor", old_linear);
  } else if (type != "none" && type != "longrope") {
    in.Problem(absl::StrCat("rope scaling of type \"", type.substr(0, 60), "\" is not supported; none, linear and ",
                            "longrope are"));
  }
  if (rope.dim <= 0 || rope.dim > c->head_dim || rope.dim % 2 != 0 || !in.Good()) return;  // CheckConfig's
  if (const absl::Status s = ReadRopeFreqs(in.file(), &rope); !s.ok()) in.Problem(std::string(s.message()));
  if (const absl::Status s = ReadLongRope(in, &rope); !s.ok()) in.Problem(std::string(s.message()));
  if (type == "longrope" && rope.scaling != RopeScaling::kLongRope) {
    in.Problem("rope scaling of type \"longrope\", but there are no rope_factors_short.weight and _long.weight");
  }
}

// ---- the rest ----

void ReadTokens(const GgufConfig& in, ModelConfig* c) {
  const auto token = [&](const char* key) -> int32_t {
    if (!in.file().Has(key)) return -1;
    const absl::StatusOr<int64_t> id = in.file().GetInt(key);
    if (id.ok() && *id >= 0 && *id <= std::numeric_limits<int32_t>::max()) return static_cast<int32_t>(*id);
    in.Problem(absl::StrCat(key, " is not a token"));
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

void ReadSizes(const GgufConfig& in, ModelConfig* c) {
  c->layers = in.Int("block_count");
  c->hidden = in.Int("embedding_length");
  c->heads = in.Int("attention.head_count");
  c->kv_heads = in.Int("attention.head_count_kv", c->heads);
  if (!in.Has("attention.key_length") && (c->heads <= 0 || c->hidden % c->heads != 0)) {
    in.Problem("the embedding length is no multiple of the head count, and attention.key_length is not given");
  } else {
    c->head_dim = in.Int("attention.key_length", c->heads > 0 ? c->hidden / c->heads : 0);
  }
  if (in.Int("attention.value_length", c->head_dim) != c->head_dim) {
    in.Problem("attention.key_length and attention.value_length differ; that is not supported");
  }
  c->ffn = in.Int("feed_forward_length");
  c->max_position = in.Int("context_length");
  c->norm_eps = static_cast<float>(
      in.Float(c->norm == Norm::kRms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon"));
  const auto tokens = in.file().metadata().find("tokenizer.ggml.tokens");
  const auto* list =
      tokens == in.file().metadata().end() ? nullptr : std::get_if<std::vector<std::string>>(&tokens->second);
  const std::optional<int32_t> listed =
      list == nullptr ? std::nullopt : std::optional<int32_t>(static_cast<int32_t>(list->size()));
  c->vocab = in.Int("vocab_size", listed);
}

void ReadProperties(const Family& family, const GgufConfig& in, ModelConfig* c) {
  const bool by_width = c->layers == family.layers_scaled_by_width && c->heads > 0;
  const int32_t scaled_by = by_width ? c->hidden / c->heads : c->head_dim;
  c->attention_scale = scaled_by > 0 ? 1.0f / std::sqrt(static_cast<float>(scaled_by)) : 0.0f;
  if (family.embedding_by_width) c->embedding_scale = std::sqrt(static_cast<float>(std::max(c->hidden, 0)));
  for (const Number& number : kNumbers) {
    if (in.MayHave(number.key) && in.Has(number.key)) c->*number.property = static_cast<float>(in.Float(number.key));
  }
  c->norm_weight_bias = 0;  // converters add it to the weights
  if (family.Reads("attention_bias")) {
    c->qkv_bias = in.file().Find("blk.0.attn_q.bias") != nullptr;
    c->output_bias = in.file().Find("blk.0.attn_output.bias") != nullptr;
  }
  if (family.Reads("mlp_bias")) c->ffn_bias = in.file().Find("blk.0.ffn_up.bias") != nullptr;
  c->tied_embeddings = c->has_head() && in.file().Find("output.weight") == nullptr;
  if (in.Bool("attention.causal", c->causal) != c->causal) {
    in.Problem(absl::StrCat("attention.causal is not what ", family.gguf, " has"));
  }
  if (!in.MayHave("pooling_type")) return;
  switch (in.Int("pooling_type", 1)) {  // gguf-py, PoolingType
    case 0:                             // none: a vector for each token
    case 1:
      c->pooling = Pooling::kMean;
      break;
    case 2:
      c->pooling = Pooling::kFirst;
      break;
    case 3:
      c->pooling = Pooling::kLast;
      break;
    default:
      in.Problem(absl::StrCat("pooling_type ", in.Int("pooling_type"), " is not supported; mean, first and last are"));
  }
}

void ReadLayers(const Family& family, const GgufConfig& in, ModelConfig* c) {
  constexpr int32_t kMost = 1 << 16;  // as of config.json
  const bool may_have_experts = in.MayHave("expert_feed_forward_length");
  c->experts.count = in.Int("expert_count", 0);
  if (c->experts.count > 0 && may_have_experts) {
    c->experts.used = in.Int("expert_used_count");
    c->experts.ffn = in.Int("expert_feed_forward_length", c->ffn);
  } else if (c->experts.count != 0) {
    in.Problem(absl::StrCat("mixtures of experts are not supported for ", family.gguf));
  }
  if (c->layers < 1 || c->layers > kMost) return;
  const bool has_window = in.MayHave("attention.sliding_window");
  int32_t window = has_window ? in.Int("attention.sliding_window", 0) : 0;
  if (window < 0) in.Problem(absl::StrCat("attention.sliding_window is ", window));
  if (window >= c->max_position) window = 0;  // it masks nothing
  const int32_t pattern = family.windows == Windows::kPattern ? in.Int("attention.sliding_window_pattern") : 1;
  if (pattern < 1) in.Problem(absl::StrCat("attention.sliding_window_pattern is ", pattern));
  std::vector<bool> sliding;
  for (int32_t layer = 0; layer < c->layers; ++layer) {
    sliding.push_back(has_window &&
                      (family.windows == Windows::kAll || (family.windows == Windows::kAlternate && layer % 2 == 0) ||
                       (family.windows == Windows::kPattern && pattern >= 1 && (layer + 1) % pattern != 0)));
  }
  SetKinds(family, sliding, window, std::vector<bool>(static_cast<size_t>(c->layers), c->experts.count > 0), c);
}

}  // namespace

absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file) {
  SHOAL_ASSIGN_OR_RETURN(const std::string_view architecture, file.GetString("general.architecture"));
  const Family* const family = FindGgufFamily(architecture);
  if (family == nullptr) return UnknownArchitecture(architecture);
  ModelConfig c = family->properties;
  c.architecture = std::string(architecture);
  Problems problems;
  const GgufConfig in(file, *family, &problems);
  ReadSizes(in, &c);
  ReadProperties(*family, in, &c);
  in.RefuseUnknownKeys();
  ReadRope(*family, in, &c);
  ReadLayers(*family, in, &c);
  ReadTokens(in, &c);
  return FinishConfig("GGUF metadata", std::move(c), std::move(problems));
}

}  // namespace shoal::model
