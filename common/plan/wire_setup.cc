#include "common/plan/wire_setup.h"

#include "absl/strings/str_cat.h"
#include "common/base/utf8.h"
#include "common/plan/wire.h"
#include "worker.pb.h"

namespace shoal::plan {
namespace {

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
  out->set_activation(static_cast<int>(in.activation));
  out->set_tied_embeddings(in.tied_embeddings);
  out->set_rope_theta(in.rope.theta);
  out->set_rope_dim(in.rope.dim);
  out->set_rope_interleaved(in.rope.interleaved);
  out->set_rope_scaling(static_cast<int>(in.rope.scaling));
  out->set_rope_factor(in.rope.factor);
  out->set_rope_low_freq_factor(in.rope.low_freq_factor);
  out->set_rope_high_freq_factor(in.rope.high_freq_factor);
  out->set_rope_original_max_position(in.rope.original_max_position);
}

absl::StatusOr<model::ModelConfig> Get(const proto::ModelConfig& in) {
  if (in.activation() < 0 || in.activation() > static_cast<int>(model::Activation::kGeluTanh)) {
    return absl::InvalidArgumentError(absl::StrCat("unknown activation ", in.activation()));
  }
  if (in.rope_scaling() < 0 || in.rope_scaling() > static_cast<int>(model::RopeScaling::kLlama3)) {
    return absl::InvalidArgumentError(absl::StrCat("unknown rotary scaling ", in.rope_scaling()));
  }
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
  out.activation = static_cast<model::Activation>(in.activation());
  out.tied_embeddings = in.tied_embeddings();
  out.rope.theta = in.rope_theta();
  out.rope.dim = in.rope_dim();
  out.rope.interleaved = in.rope_interleaved();
  out.rope.scaling = static_cast<model::RopeScaling>(in.rope_scaling());
  out.rope.factor = in.rope_factor();
  out.rope.low_freq_factor = in.rope_low_freq_factor();
  out.rope.high_freq_factor = in.rope_high_freq_factor();
  out.rope.original_max_position = in.rope_original_max_position();
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
