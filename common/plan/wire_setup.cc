#include "common/plan/wire_setup.h"

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/utf8.h"
#include "common/plan/wire.h"
#include "worker.pb.h"

namespace shoal::plan {
namespace {

void Put(const model::Rope& in, proto::Rope* out) {
  out->set_theta(in.theta);
  out->set_dim(in.dim);
  out->set_interleaved(in.interleaved);
  out->set_factor(in.factor);
  out->set_low_freq_factor(in.low_freq_factor);
  out->set_high_freq_factor(in.high_freq_factor);
  out->set_original_max_position(in.original_max_position);
  out->set_amplitude(in.amplitude);
  out->set_scaling(static_cast<int>(in.scaling));
  out->mutable_short_factors()->Add(in.short_factors.begin(), in.short_factors.end());
  out->mutable_long_factors()->Add(in.long_factors.begin(), in.long_factors.end());
}

void Put(const model::ModelConfig& in, proto::ModelConfig* out) {
  out->set_architecture(in.architecture);
  out->set_layers(in.layers);
  out->set_hidden(in.hidden);
  out->set_heads(in.heads);
  out->set_kv_heads(in.kv_heads);
  out->set_head_dim(in.head_dim);
  out->set_ffn(in.ffn);
  out->set_vocab(in.vocab);
  out->set_max_position(in.max_position);
  out->set_norm_eps(in.norm_eps);
  out->set_embedding_scale(in.embedding_scale);
  out->set_attention_scale(in.attention_scale);
  out->set_tied_embeddings(in.tied_embeddings);
  out->set_final_norm(in.final_norm);
  out->set_qk_norm(in.qk_norm);
  out->set_norm_weight_bias(in.norm_weight_bias);
  out->set_qkv_bias(in.qkv_bias);
  out->set_output_bias(in.output_bias);
  out->set_ffn_bias(in.ffn_bias);
  out->set_norm_bias(in.norm_bias);
  out->set_causal(in.causal);
  out->set_attention_soft_cap(in.attention_soft_cap);
  out->set_gated(in.gated);
  out->set_embedding_norm(in.embedding_norm);
  out->set_learned_positions(in.learned_positions);
  out->set_token_types(in.token_types);
  out->set_logit_scale(in.logit_scale);
  out->set_logit_soft_cap(in.logit_soft_cap);
  out->set_normalise(in.normalise);
  out->set_bos_token(in.bos_token);
  out->set_activation(static_cast<int>(in.activation));
  out->set_task(static_cast<int>(in.task));
  out->set_norm(static_cast<int>(in.norm));
  out->set_norm_place(static_cast<int>(in.norm_place));
  out->set_pooling(static_cast<int>(in.pooling));
  for (const model::LayerKind& kind : in.kinds) {
    proto::LayerKind* k = out->add_kinds();
    k->set_window(kind.window);
    k->set_other_rope(kind.other_rope);
    k->set_has_experts(kind.has_experts);
  }
  out->mutable_experts()->set_count(in.experts.count);
  out->mutable_experts()->set_used(in.experts.used);
  out->mutable_experts()->set_ffn(in.experts.ffn);
  out->mutable_experts()->set_renormalise(in.experts.renormalise);
  Put(in.rope, out->mutable_rope());
  Put(in.other_rope, out->mutable_other_rope());
  out->mutable_eos_tokens()->Add(in.eos_tokens.begin(), in.eos_tokens.end());
}

// A value of an enumeration that ends with `last`.
template <typename T>
absl::Status Take(const char* what, int value, T last, T* out) {
  if (value < 0 || value > static_cast<int>(last)) {
    return absl::InvalidArgumentError(absl::StrCat("unknown ", what, " ", value));
  }
  *out = static_cast<T>(value);
  return absl::OkStatus();
}

absl::Status Get(const proto::Rope& in, model::Rope* out) {
  out->theta = in.theta();
  out->dim = in.dim();
  out->interleaved = in.interleaved();
  out->factor = in.factor();
  out->low_freq_factor = in.low_freq_factor();
  out->high_freq_factor = in.high_freq_factor();
  out->original_max_position = in.original_max_position();
  out->amplitude = in.amplitude();
  out->short_factors.assign(in.short_factors().begin(), in.short_factors().end());
  out->long_factors.assign(in.long_factors().begin(), in.long_factors().end());
  return Take("rotary scaling", in.scaling(), model::RopeScaling::kLongRope, &out->scaling);
}

absl::StatusOr<model::ModelConfig> Get(const proto::ModelConfig& in) {
  model::ModelConfig out;
  out.architecture = in.architecture();
  out.layers = in.layers();
  out.hidden = in.hidden();
  out.heads = in.heads();
  out.kv_heads = in.kv_heads();
  out.head_dim = in.head_dim();
  out.ffn = in.ffn();
  out.vocab = in.vocab();
  out.max_position = in.max_position();
  out.norm_eps = in.norm_eps();
  out.embedding_scale = in.embedding_scale();
  out.attention_scale = in.attention_scale();
  out.tied_embeddings = in.tied_embeddings();
  out.final_norm = in.final_norm();
  out.qk_norm = in.qk_norm();
  out.norm_weight_bias = in.norm_weight_bias();
  out.qkv_bias = in.qkv_bias();
  out.output_bias = in.output_bias();
  out.ffn_bias = in.ffn_bias();
  out.norm_bias = in.norm_bias();
  out.causal = in.causal();
  out.attention_soft_cap = in.attention_soft_cap();
  out.gated = in.gated();
  out.embedding_norm = in.embedding_norm();
  out.learned_positions = in.learned_positions();
  out.token_types = in.token_types();
  out.logit_scale = in.logit_scale();
  out.logit_soft_cap = in.logit_soft_cap();
  out.normalise = in.normalise();
  out.bos_token = in.bos_token();
  SHOAL_RETURN_IF_ERROR(Take("activation", in.activation(), model::Activation::kGelu, &out.activation));
  SHOAL_RETURN_IF_ERROR(Take("task", in.task(), model::Task::kEmbed, &out.task));
  SHOAL_RETURN_IF_ERROR(Take("norm", in.norm(), model::Norm::kLayer, &out.norm));
  SHOAL_RETURN_IF_ERROR(Take("place of norms", in.norm_place(), model::NormPlace::kAfter, &out.norm_place));
  SHOAL_RETURN_IF_ERROR(Take("pooling", in.pooling(), model::Pooling::kMean, &out.pooling));
  for (const proto::LayerKind& kind : in.kinds()) {
    out.kinds.push_back({.window = kind.window(), .other_rope = kind.other_rope(), .has_experts = kind.has_experts()});
  }
  out.experts = {.count = in.experts().count(),
                 .used = in.experts().used(),
                 .ffn = in.experts().ffn(),
                 .renormalise = in.experts().renormalise()};
  SHOAL_RETURN_IF_ERROR(Get(in.rope(), &out.rope));
  SHOAL_RETURN_IF_ERROR(Get(in.other_rope(), &out.other_rope));
  out.eos_tokens.assign(in.eos_tokens().begin(), in.eos_tokens().end());
  return out;
}

}  // namespace

std::string EncodeSetup(const RankSetup& setup) {
  proto::RankSetup out;
  out.set_rank(setup.rank);
  out.set_tp(setup.tp);
  out.set_pp(setup.pp);
  out.set_epoch(setup.epoch);
  out.set_coordinator(setup.coordinator);
  Put(setup.model, out.mutable_model());
  ToProto(setup.engine, out.mutable_engine());
  ToProto(setup.limits, out.mutable_limits());
  out.set_threads(setup.threads);
  out.set_host(ValidUtf8(setup.host));
  out.set_device_index(setup.device_index);
  out.set_weights_bytes(setup.weights_bytes);
  out.set_kv_bytes(setup.kv_bytes);
  out.set_planned_device_bytes(setup.planned_device_bytes);
  out.set_checked_steps(setup.checked_steps);
  return out.SerializeAsString();
}

absl::StatusOr<RankSetup> DecodeSetup(std::string_view bytes) {
  proto::RankSetup in;
  if (!in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::DataLossError("a malformed setup record");
  }
  if (in.tp() < 1 || in.pp() < 1 || in.rank() < 0 || in.rank() >= int64_t{in.tp()} * in.pp() || in.threads() < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", in.rank(), " of tp ", in.tp(), " x pp ", in.pp(), " with ", in.threads(), " threads"));
  }
  if (in.device_index() < 0 || in.weights_bytes() < 0 || in.kv_bytes() < 0 || in.planned_device_bytes() < 0 ||
      in.checked_steps() < 0) {
    return absl::InvalidArgumentError("a setup record with a negative device, size or number of steps");
  }
  const auto& l = in.limits();
  for (int32_t v : {l.blocks(), l.block_size(), l.max_sequences(), l.max_tokens(), l.max_model_len(), l.vocab()}) {
    if (v <= 0) return absl::InvalidArgumentError("a limit in a setup record is not positive");
  }
  RankSetup out;
  out.rank = in.rank();
  out.tp = in.tp();
  out.pp = in.pp();
  out.epoch = in.epoch();
  out.coordinator = in.coordinator();
  auto model = Get(in.model());
  if (!model.ok()) return model.status();
  out.model = *std::move(model);
  out.engine = FromProto(in.engine());
  auto limits = FromProto(l);
  if (!limits.ok()) return limits.status();
  out.limits = *limits;
  out.threads = in.threads();
  out.host = in.host();
  out.device_index = in.device_index();
  out.weights_bytes = in.weights_bytes();
  out.kv_bytes = in.kv_bytes();
  out.planned_device_bytes = in.planned_device_bytes();
  out.checked_steps = in.checked_steps();
  return out;
}

std::string EncodeConnect(const ConnectRanks& connect) {
  proto::ConnectRanksRequest out;
  ToProto(connect, &out);
  return out.SerializeAsString();
}

absl::StatusOr<ConnectRanks> DecodeConnect(std::string_view bytes) {
  proto::ConnectRanksRequest in;
  if (!in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::DataLossError("a malformed connect record");
  }
  return FromProto(in);
}

}  // namespace shoal::plan
